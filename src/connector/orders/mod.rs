//! Orders: what an operator can ask of the owner, and of the topics.
//!
//! | file | holds |
//! |---|---|
//! | `order` | the orders, and those that the writer carries out itself |
//! | `once` | which orders were carried out: each once, or not at all |
//! | `dead_letters`, `survey`, `replay` | dead letters: told of, parsed again, published |
//! | `verify` | the view compared with the journal |

pub(crate) mod dead_letters;
pub(crate) mod once;
pub(crate) mod order;
pub(crate) mod replay;
pub(crate) mod survey;
pub(crate) mod verify;
