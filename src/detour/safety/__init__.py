"""Safety in layers: a policy looks at requests before they are drawn and at pictures before they are handed out."""
