"""Pure ML: images to predictions, labelled examples to checkpoints.

Stands on torch, torchvision and Pillow, and knows nothing of queues or databases: every function takes what
it needs and gives a value back. `errors` draws what can go wrong.
"""
