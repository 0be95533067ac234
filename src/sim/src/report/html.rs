//! What the pages have in common: one style for wide and narrow, light and dark, and escaping.

/// The style of a page. Plots take their colours from it: `--s0` is the first line's.
pub(crate) const STYLE: &str = include_str!("page.css");

/// Text as HTML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
