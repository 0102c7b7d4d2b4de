"""Colours and fonts. Fonts are the visitor's own: the page loads nothing from other sites."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils.fonts import Font


def theme() -> gr.themes.Base:
    sans = [Font(name) for name in ("Inter", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif")]
    mono = [Font(name) for name in ("SFMono-Regular", "Consolas", "Liberation Mono", "monospace")]
    return gr.themes.Base(
        primary_hue="orange", secondary_hue="orange", neutral_hue="slate", font=sans, font_mono=mono,
        spacing_size="sm", radius_size="md", text_size="md",
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_400",
        block_title_text_weight="600",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        slider_color="*primary_500",
    )  # fmt: skip
