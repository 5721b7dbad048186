//! Rows made ready for the writer, without a look at the view, the journal or the clock.
//!
//! | file | holds |
//! |---|---|
//! | `dead_row` | what a dead letter holds of its row |
//! | `prepare` | a page made ready: its rows parsed and hashed, the message of each leg written |
//! | `leg_message` | a leg's message: ahead, as it is if the leg is new, or once it is known what it is |

pub(crate) mod dead_row;
pub(crate) mod leg_message;
pub(crate) mod prepare;
