//! What a test found out: plain data, as JSON has it, and its text for people.
//!
//! Promise: text made from the JSON is the text of the test itself.
//! Not here: how the figures come about (`source`, `sink`, `commands`), pages (`pages`).

pub mod comparison;
pub mod histogram;
pub mod hold;
pub mod machine;
pub mod ramp;
pub mod rates;
pub mod relay;
pub mod report;
pub mod sink;
pub mod source;
pub mod spread;
pub mod timeline;
