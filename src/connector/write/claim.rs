//! Claims: the records by which a process says that it owns the journal, or that it gives it up.

use std::future::Future;
use std::time::Duration;

use tokio::sync::Notify;

use crate::codec::JournalCodec;
use crate::connector::fault::Fault;
use crate::core::journal::{Claim, Record};
use crate::sink::{Message, Packing, Producer, ProducerError};

/// Commits a claim; gives its offset.
pub(crate) async fn write<P: Producer>(producer: &mut P, codec: &JournalCodec, claim: &Claim) -> Result<i64, Fault> {
    write_with(producer, codec, claim, &[]).await
}

async fn write_with<P: Producer>(
    producer: &mut P,
    codec: &JournalCodec,
    claim: &Claim,
    statuses: &[Message],
) -> Result<i64, Fault> {
    let (key, payload) = codec.encode(&Record::Claim(claim.clone()));
    let message = Message::journal(key, payload);
    let in_doubt = |error: ProducerError| Fault::Doubtful(error.to_string());
    producer.begin().await.map_err(in_doubt)?;
    let places = producer.send(std::slice::from_ref(&message), Packing::Shared).await.map_err(in_doubt)?;
    producer.send(statuses, Packing::Shared).await.map_err(in_doubt)?;
    producer.commit().await.map_err(in_doubt)?;
    Ok(places.first().map(|place| place.offset).unwrap_or_default())
}

/// Does something that may take long, and writes the claim again with every beat meanwhile, and the units' statuses
/// as they then are: whoever stands by or reads the feed takes silence for an end.
///
/// After an error the producer is not to be used any more: it may be in the middle of a claim.
pub(crate) async fn repeated_during<P: Producer, R>(
    producer: &mut P,
    codec: &JournalCodec,
    claim: &Claim,
    beat: Duration,
    statuses: impl Fn() -> Vec<Message>,
    work: impl Future<Output = Result<R, Fault>>,
) -> Result<R, Fault> {
    let done = Notify::new();
    let working = async {
        let worked = work.await?;
        done.notify_one();
        Ok::<R, Fault>(worked)
    };
    let beating = async {
        loop {
            tokio::select! {
                biased;
                () = done.notified() => return Ok::<(), Fault>(()),
                () = tokio::time::sleep(beat.mul_f64(0.9)) => {}
            }
            write_with(producer, codec, claim, &statuses()).await?;
        }
    };
    let (worked, ()) = tokio::try_join!(working, beating)?;
    Ok(worked)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::core::journal::{Delivery, Nonce};
    use crate::core::time::UtcMillis;
    use crate::sink::{Destination, Place};

    const BEAT: Duration = Duration::from_secs(10);

    /// Acknowledges everything, until commits fail; when each commit came, and how many messages the transaction had.
    #[derive(Default)]
    struct Fake {
        commits: Vec<(Instant, usize)>,
        sent: usize,
        commits_max: Option<usize>,
    }

    impl Producer for Fake {
        async fn begin(&mut self) -> Result<(), ProducerError> {
            self.sent = 0;
            Ok(())
        }

        async fn hand_over(&mut self, _: &Message) -> Result<(), ProducerError> {
            Ok(())
        }

        async fn send(&mut self, batch: &[Message], _: Packing) -> Result<Vec<Place>, ProducerError> {
            self.sent += batch.len();
            Ok(vec![Place { partition: 0, offset: 0 }; batch.len()])
        }

        async fn commit(&mut self) -> Result<(), ProducerError> {
            if self.commits_max == Some(self.commits.len()) {
                return Err(ProducerError::Fenced("another producer".to_owned()));
            }
            self.commits.push((Instant::now(), self.sent));
            Ok(())
        }

        #[cfg(feature = "test-hooks")]
        async fn abort(&mut self) -> Result<(), ProducerError> {
            Ok(())
        }
    }

    fn claim() -> Claim {
        Claim {
            nonce: Nonce([1; 16]),
            process: Nonce([2; 16]),
            instance: Nonce([3; 16]),
            host: "host".to_owned(),
            admin: "host:9464".to_owned(),
            version: "0".to_owned(),
            delivery: Delivery::ExactlyOnce,
            beat_ms: 10_000,
            is_released: false,
            at: UtcMillis::new(0),
        }
    }

    fn status() -> Vec<Message> {
        let destination = Destination::Status;
        vec![Message { destination, key: "unit".into(), payload: None, timestamp: None, headers: Vec::new() }]
    }

    async fn long_work(length: Duration) -> Result<&'static str, Fault> {
        tokio::time::sleep(length).await;
        Ok("done")
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_works_for_long_is_never_silent_for_a_beat() {
        let (mut producer, began) = (Fake::default(), Instant::now());
        let working = long_work(BEAT * 20);
        let worked = repeated_during(&mut producer, &JournalCodec::new(), &claim(), BEAT, status, working).await;
        assert_eq!(worked.unwrap(), "done");
        let instants = [began].into_iter().chain(producer.commits.iter().map(|(at, _)| *at)).chain([Instant::now()]);
        let instants: Vec<Instant> = instants.collect();
        assert!(instants.windows(2).map(|pair| pair[1] - pair[0]).all(|silence| silence < BEAT));
        assert!(producer.commits.iter().all(|(_, sent)| *sent == 2), "a claim and a status each");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_fenced_while_it_works_gives_the_work_up() {
        let mut producer = Fake { commits_max: Some(2), ..Fake::default() };
        let (began, working) = (Instant::now(), long_work(BEAT * 20));
        let worked = repeated_during(&mut producer, &JournalCodec::new(), &claim(), BEAT, status, working).await;
        assert!(matches!(worked, Err(Fault::Doubtful(_))));
        assert!(began.elapsed() < BEAT * 3);
    }
}
