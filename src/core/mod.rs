//! The pure core: what is read, what is published, what is remembered, decided without doing it.
//!
//! Nothing below this module is async, does I/O, reads a clock or draws a random number; whoever
//! calls it passes the present and the dice. It imports std, itself and pure libraries.

pub mod budget;
pub mod chunk;
pub mod course;
pub mod coverage;
pub mod dead_letter;
pub mod dedupe;
pub mod feed;
pub mod hours;
pub mod identity;
pub mod journal;
pub mod lateness;
pub mod ledger;
pub mod leg;
pub mod merge;
pub mod page_draft;
pub mod pagination;
pub mod parts;
pub mod planner;
pub mod poll;
pub mod poll_pace;
pub mod privacy;
pub mod query;
pub mod replay;
pub mod retry;
pub mod shape;
pub mod skew;
pub mod time;
pub mod watermark;
pub mod window_length;
pub mod words;
pub mod zone;
