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
