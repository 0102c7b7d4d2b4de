"""Scripts that produce the weights; `stt` never imports from here."""
