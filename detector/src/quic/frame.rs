//! The frames of an opened Initial packet in, its CRYPTO pieces out (RFC 9000 sections 12.4 and 19).

use std::ops::Range;

use super::{take, varint};

/// One frame, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// PADDING, PING, ACK.
    Nothing,
    /// CRYPTO: the stream offset, and where in the payload its bytes lie.
    Crypto(u64, Range<usize>),
    /// CONNECTION_CLOSE.
    Close,
}

/// A frame that is cut off, or that an Initial packet may not hold: the server closes the connection over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Illegal;

/// The frames of `payload`. Ends after the first illegal one.
pub(super) fn frames(payload: &[u8]) -> impl Iterator<Item = Result<Frame, Illegal>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let frame = frame(payload, &mut rest).ok_or(Illegal);
        if frame.is_err() {
            rest = &[];
        }
        Some(frame)
    })
}

fn frame(payload: &[u8], rest: &mut &[u8]) -> Option<Frame> {
    const PADDING: u64 = 0x00;
    const PING: u64 = 0x01;
    const ACK: u64 = 0x02;
    const ACK_ECN: u64 = 0x03;
    const CRYPTO: u64 = 0x06;
    const CONNECTION_CLOSE: u64 = 0x1c;
    match varint(rest)? {
        PADDING => {
            let end = rest.iter().position(|byte| *byte != 0).unwrap_or(rest.len());
            take(rest, end)?;
            Some(Frame::Nothing)
        }
        PING => Some(Frame::Nothing),
        kind @ (ACK | ACK_ECN) => {
            let (_largest, _delay) = (varint(rest)?, varint(rest)?);
            let ranges = varint(rest)?;
            varint(rest)?;
            // Each range takes at least two bytes, so a false count ends with the payload.
            for _ in 0..ranges {
                let (_gap, _length) = (varint(rest)?, varint(rest)?);
            }
            if kind == ACK_ECN {
                let (_ect0, _ect1, _ce) = (varint(rest)?, varint(rest)?, varint(rest)?);
            }
            Some(Frame::Nothing)
        }
        CRYPTO => {
            let offset = varint(rest)?;
            let length = usize::try_from(varint(rest)?).ok()?;
            let start = payload.len().checked_sub(rest.len())?;
            take(rest, length)?;
            Some(Frame::Crypto(offset, start..start.checked_add(length)?))
        }
        CONNECTION_CLOSE => {
            let (_code, _frame_type) = (varint(rest)?, varint(rest)?);
            let reason = usize::try_from(varint(rest)?).ok()?;
            take(rest, reason)?;
            Some(Frame::Close)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_of_an_initial_packet_and_no_others() {
        let payload = [
            &[0, 0, 0, 1][..],
            &[2, 5, 0, 1, 0, 1, 1],
            &[3, 5, 0, 0, 0, 1, 2, 3],
            &[6, 0x40, 0x41, 2, b'a', b'b'],
            &[0x1c, 0, 6, 1, b'x'],
        ];
        let frames: Vec<_> = frames(&payload.concat()).collect();
        let nothing = Ok(Frame::Nothing);
        let crypto = Ok(Frame::Crypto(0x41, 23..25));
        assert_eq!(frames, [nothing.clone(), nothing.clone(), nothing.clone(), nothing, crypto, Ok(Frame::Close)]);
        for kind in (0..=0x3f_u8).filter(|kind| ![0, 1, 2, 3, 6, 0x1c].contains(kind)) {
            assert_eq!(super::frames(&[kind, 0, 0, 0, 0, 0, 0]).collect::<Vec<_>>(), [Err(Illegal)]);
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_is_illegal() {
        for whole in
            [&[2, 5, 0, 1, 0, 1, 1][..], &[3, 5, 0, 0, 0, 1, 2, 3], &[6, 9, 2, b'a', b'b'], &[0x1c, 0, 6, 1, 0]]
        {
            for length in 1..whole.len() {
                assert_eq!(frames(&whole[..length]).collect::<Vec<_>>(), [Err(Illegal)], "{whole:?} cut at {length}");
            }
        }
        let endless = [2, 5, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0];
        assert_eq!(frames(&endless).collect::<Vec<_>>(), [Err(Illegal)]);
    }
}
