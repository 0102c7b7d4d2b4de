"""The Gradio app, and the only place that imports gradio."""
