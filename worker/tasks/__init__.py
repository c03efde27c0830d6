"""The Celery tasks, one module per kind of worker: policy in the decorator, a line or two in the body.

A worker includes the one module of its kind, so an intake worker never imports torch.
"""
