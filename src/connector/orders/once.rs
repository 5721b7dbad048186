//! Each order is carried out once, or not at all.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::order::{Answer, Order, OrderRequest};
use crate::connector::fault::OrderError;

/// How many answers are remembered, for callers that ask again.
const ANSWERS_MAX: usize = 64;

/// Which orders were carried out, while the journal is owned.
#[derive(Clone, Default)]
pub(crate) struct Once(Arc<Mutex<Orders>>);

#[derive(Default)]
struct Orders {
    /// The newest answers by the names of their orders, oldest first.
    answers: VecDeque<(String, Answer)>,
    /// Orders that are being carried out, and the callers that have asked again meanwhile.
    under_way: Vec<(String, Vec<oneshot::Sender<Answer>>)>,
}

/// An order that is being carried out.
pub(crate) struct Pending {
    id: Option<String>,
    reply: oneshot::Sender<Answer>,
}

impl Once {
    /// The order, if it is to be carried out. Else its caller is answered: with the first answer to an order of this name,
    /// or, if the caller's time is over, with an error.
    pub(crate) fn begin(&self, request: OrderRequest) -> Option<(Order, Pending)> {
        let OrderRequest { order, id, deadline, reply } = request;
        let mut orders = self.orders();
        if let Some(id) = &id {
            if let Some((_, answer)) = orders.answers.iter().find(|(known, _)| known == id) {
                let _ = reply.send(answer.clone());
                return None;
            }
            if let Some((_, callers)) = orders.under_way.iter_mut().find(|(known, _)| known == id) {
                callers.push(reply);
                return None;
            }
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) || reply.is_closed() {
            let what = "the owner was busy until the order's time was over: nothing was done";
            let _ = reply.send(Err(OrderError::Failed(what.to_owned())));
            return None;
        }
        orders.under_way.extend(id.clone().map(|id| (id, Vec::new())));
        Some((order, Pending { id, reply }))
    }

    /// Answers an order that was carried out.
    pub(crate) fn answer(&self, pending: Pending, answer: Answer) {
        let Pending { id, reply } = pending;
        let mut callers = vec![reply];
        if let Some(id) = id {
            let mut orders = self.orders();
            if let Some(found) = orders.under_way.iter().position(|(known, _)| *known == id) {
                callers.append(&mut orders.under_way.swap_remove(found).1);
            }
            if orders.answers.len() == ANSWERS_MAX {
                orders.answers.pop_front();
            }
            orders.answers.push_back((id, answer.clone()));
        }
        // A caller that has gone finds in the journal what was done.
        callers.into_iter().for_each(|caller| _ = caller.send(answer.clone()));
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        // A poisoned lock is fine: no answer is half there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn asked(id: Option<&str>, deadline: Option<Instant>) -> (OrderRequest, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (OrderRequest { order: Order::Verify, id: id.map(str::to_owned), deadline, reply }, answer)
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_that_is_asked_again_gets_the_first_answer_also_while_it_is_carried_out() {
        let once = Once::default();
        let (first, first_answer) = asked(Some("a"), None);
        let (_, pending) = once.begin(first).unwrap();
        let (again, second_answer) = asked(Some("a"), Some(Instant::now()));
        assert!(once.begin(again).is_none());
        let (gone, _) = asked(Some("b"), None);
        assert!(once.begin(gone).is_none(), "its caller has gone");
        once.answer(pending, Ok("done".to_owned()));
        let (late, third_answer) = asked(Some("a"), None);
        assert!(once.begin(late).is_none());
        for answer in [first_answer, second_answer, third_answer] {
            assert_eq!(answer.await.unwrap().unwrap(), "done");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_without_a_name_is_carried_out_each_time_and_none_after_its_time() {
        let once = Once::default();
        for _ in 0..2 {
            let (order, answer) = asked(None, Some(Instant::now() + Duration::from_secs(1)));
            let (_, pending) = once.begin(order).unwrap();
            once.answer(pending, Ok(String::new()));
            assert!(answer.await.unwrap().is_ok());
        }
        let (late, answer) = asked(None, Some(Instant::now()));
        assert!(once.begin(late).is_none());
        assert!(answer.await.unwrap().is_err());
    }

    #[test]
    fn so_many_answers_are_remembered_and_no_more() {
        let once = Once::default();
        let begin = |number: usize| {
            let (order, answer) = asked(Some(&number.to_string()), None);
            (once.begin(order), answer)
        };
        for number in 0..=ANSWERS_MAX {
            let (begun, _answer) = begin(number);
            once.answer(begun.unwrap().1, Ok(String::new()));
        }
        assert!(begin(1).0.is_none());
        assert!(begin(0).0.is_some());
    }
}
