//! A reply's body, collected from the pieces that it comes in.

use super::SourceError;
use super::http::transport;

/// The body of a reply, of `bytes_max` bytes at most. One whose length is announced is copied once.
///
/// # Errors
/// When the reply breaks off, or is larger; one that announces so is not read to its end.
pub(super) async fn collect(response: &mut reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, SourceError> {
    let announced = response.content_length().map_or(Ok(0), usize::try_from).unwrap_or(usize::MAX);
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(transport)? {
        if announced.max(body.len() + piece.len()) > bytes_max {
            return Err(SourceError::unreachable(format!(
                "a reply is larger than {bytes_max} bytes: lower source.page_size or raise source.max_body"
            )));
        }
        if body.is_empty() {
            body.reserve_exact(announced.max(piece.len()));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
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
    async fn collected(pieces: &[Bytes]) -> [Result<Vec<u8>, SourceError>; 2] {
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
                    Some(expected) => assert_eq!(body.unwrap(), expected.as_bytes()),
                    None => assert!(body.unwrap_err().to_string().contains("raise source.max_body")),
                }
            }
        }
    }
}
