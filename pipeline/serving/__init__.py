"""References to predictions: images are fetched and decoded ahead, then classified in full batches."""
