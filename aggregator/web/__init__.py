"""The fleet page, its JSON API and its event stream."""
