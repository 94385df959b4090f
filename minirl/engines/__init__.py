"""Where a loop runs: in this process (:mod:`minirl.loops`), or on TRL's trainers (:mod:`minirl.engines.trl`)."""
