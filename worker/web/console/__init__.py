"""The console: pages for whoever labels, owns a model or operates the mill. No page needs a script."""
