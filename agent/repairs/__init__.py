"""Repairs: what this node's agent does because the aggregator told it to, and nothing else.

Off unless ``directive_public_key_file`` is set. A directive is carried out at most once, ever, and only when its
signature holds, it is for this node, and this node's own settings allow its kind. What it did is told with evidence.
"""
