"""The book: assembled from chapters, executed notebooks and results, checked after it is built. See `make book`."""
