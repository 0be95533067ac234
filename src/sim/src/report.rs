//! Reports of runs: a table, a JSON array, a judgement, and a page with a verdict and plots.

mod cases;
mod check;
mod html;
mod matrix;
mod page;
pub(crate) mod plots;
mod progress;
mod row;
mod table;

pub use check::{Check, check};
pub(crate) use html::{STYLE, escaped};
pub use page::{Conditions, html};
pub use progress::Progress;
pub use row::ResultRow;
pub use table::table;

/// The day, in UTC, as `2026-11-29`.
pub fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

/// The results as one JSON array.
///
/// # Errors
/// None that these values can cause.
pub fn json(entries: &[ResultRow]) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(entries)
}
