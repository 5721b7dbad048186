//! A reply's body, collected from the pieces that it comes in.

use bytes::{Bytes, BytesMut};

use super::SourceError;
use super::http::transport;

/// The body of a reply, of `bytes_max` bytes at most. One that comes in one piece is not copied, and one whose
/// length is announced is copied once.
///
/// # Errors
/// When the reply breaks off, or is larger; one that announces so is not read to its end.
pub(super) async fn collect(response: &mut reqwest::Response, bytes_max: usize) -> Result<Bytes, SourceError> {
    let too_large = || {
        SourceError::unreachable(format!(
            "a reply is larger than {bytes_max} bytes: lower source.page_size or raise source.max_body"
        ))
    };
    let announced = response.content_length().map_or(Ok(0), usize::try_from).unwrap_or(usize::MAX);
    let Some(first) = response.chunk().await.map_err(transport)? else { return Ok(Bytes::new()) };
    if announced.max(first.len()) > bytes_max {
        return Err(too_large());
    }
    let Some(second) = response.chunk().await.map_err(transport)? else { return Ok(first) };
    let mut body = BytesMut::with_capacity(announced.max(first.len()));
    body.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(piece) = next {
        if body.len() + piece.len() > bytes_max {
            return Err(too_large());
        }
        body.extend_from_slice(&piece);
        next = response.chunk().await.map_err(transport)?;
    }
    Ok(body.freeze())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::{Body, Frame, SizeHint};

    use super::*;

    /// A body that comes in pieces, and whether its length is announced.
    struct Pieces {
        left: VecDeque<Bytes>,
        length: SizeHint,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
        }

        fn size_hint(&self) -> SizeHint {
            self.length
        }
    }

    /// What five bytes at most are collected to, with the length announced and without.
    async fn collected(pieces: &[Bytes]) -> [Result<Bytes, SourceError>; 2] {
        let whole = pieces.iter().map(|piece| piece.len() as u64).sum();
        let of = async |length| {
            let body = Pieces { left: pieces.iter().cloned().collect(), length };
            let mut response = reqwest::Response::from(axum::http::Response::new(reqwest::Body::wrap(body)));
            collect(&mut response, 5).await
        };
        [of(SizeHint::with_exact(whole)).await, of(SizeHint::new()).await]
    }

    #[tokio::test]
    async fn a_body_is_whole_however_it_comes_and_never_larger_than_allowed() {
        for (pieces, expected) in [
            (&[][..], Some("")),
            (&["abcde"][..], Some("abcde")),
            (&["", "ab", "", "c", "de"][..], Some("abcde")),
            (&["abcdef"][..], None),
            (&["abc", "def"][..], None),
            (&["a", "b", "c", "d", "e", "f"][..], None),
        ] {
            let pieces: Vec<Bytes> = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
            for body in collected(&pieces).await {
                match expected {
                    Some(expected) => assert_eq!(body.unwrap(), expected),
                    None => assert!(body.unwrap_err().to_string().contains("raise source.max_body")),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        let piece = Bytes::from_static(b"abcde");
        for body in collected(std::slice::from_ref(&piece)).await {
            assert_eq!(body.unwrap().as_ptr(), piece.as_ptr());
        }
    }
}
