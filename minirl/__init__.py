"""minirl: language models that improve themselves with reinforcement learning, small enough to read and to run."""

import warnings

# transformers asks for a progress bar made of widgets, which notebooks run by papermill must not have; tqdm's complaint
# that there is none would be the first thing a reader sees.
warnings.filterwarnings("ignore", message="IProgress not found")
