//! A capture file or stream in, [`Frame`]s out. Reads pcap (micro- and nanoseconds, both byte orders;
//! draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng) as a stream, so a pipe will do. Memory: one read
//! buffer of 256 KiB that grows to 4 MiB for a large block, and 16 bytes for each of at most 4,096 interfaces.

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;

use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, LegacyPcapReader, PcapBlockOwned, PcapError, PcapNGReader};

use super::frame::{Frame, Link};
use crate::clock::Timestamp;

const BUFFER: usize = 256 * 1024;
/// No frame is larger than 256 KiB (`MAXIMUM_SNAPLEN` of libpcap); a block with that and its options fits well.
const BUFFER_MAX: usize = 4 * 1024 * 1024;
const INTERFACES_MAX: usize = 4096;
const NANOS: u64 = 1_000_000_000;
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const PCAP_HEADER: usize = 24;

/// Why a capture can't be read on. The message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The first bytes are neither format.
    #[error("not a capture: it begins like neither pcap nor pcapng; write one with `tcpdump -w FILE`")]
    NotACapture,
    /// Nothing in it at all.
    #[error("the capture is empty, not even a file header; was the program that wrote it still running?")]
    Empty,
    /// The source failed.
    #[error("reading failed after {at} bytes: {source}")]
    Read {
        /// Bytes read before.
        at: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A block contradicts itself.
    #[error("damaged capture: the block at byte {at} can't be right ({why}); `pcapfix` may save what follows it")]
    Damaged {
        /// Where the block begins.
        at: u64,
        /// In what way.
        why: &'static str,
    },
    /// A link type without a decoder.
    #[error(
        "link type {number} is not read here (Ethernet, Linux cooked, raw IP and loopback are); capture on another interface or with `tcpdump -y EN10MB`"
    )]
    LinkType {
        /// The number in the file.
        number: i32,
    },
}

/// How a capture ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadSummary {
    /// Frames handed on.
    pub frames: u64,
    /// Packet blocks without what is needed to read them: of an unknown interface or an unread link type.
    pub unreadable: u64,
    /// The last block is cut off: where it begins.
    pub cut_at: Option<u64>,
}

/// Hands each frame of the capture that `input` holds to `each`, in file order.
///
/// # Errors
/// See [`CaptureError`]; frames before the fault have been handed on.
pub fn read<R: Read>(input: R, mut each: impl FnMut(&Frame<'_>)) -> Result<ReadSummary, CaptureError> {
    let mut input = Patient { inner: input, failure: Rc::default() };
    let failure = Rc::clone(&input.failure);
    let head = head(&mut input).map_err(|source| CaptureError::Read { at: 0, source })?;
    let pcapng = head.starts_with(&PCAPNG);
    if head.is_empty() {
        return Err(CaptureError::Empty);
    }
    let source = io::Cursor::new(head).chain(input);
    let mut reader: Box<dyn PcapReaderIterator + '_> = if pcapng {
        Box::new(PcapNGReader::new(BUFFER, source).map_err(|_| CaptureError::NotACapture)?)
    } else {
        Box::new(LegacyPcapReader::new(BUFFER, source).map_err(|_| CaptureError::NotACapture)?)
    };
    let mut blocks = Blocks::default();
    let mut capacity = BUFFER;
    loop {
        let at = u64::try_from(reader.consumed()).unwrap_or(u64::MAX);
        match reader.next() {
            Ok((size, block)) => {
                blocks.take(&block, &mut each)?;
                reader.consume(size);
            }
            Err(PcapError::Eof) => return Ok(blocks.summary),
            Err(PcapError::UnexpectedEof) => {
                blocks.summary.cut_at = (!reader.data().is_empty()).then_some(at);
                return Ok(blocks.summary);
            }
            Err(PcapError::Incomplete(_)) => refill(reader.as_mut(), &failure, at)?,
            Err(PcapError::BufferTooSmall) => {
                capacity = capacity.saturating_mul(2);
                if capacity > BUFFER_MAX || !reader.grow(capacity) {
                    return Err(CaptureError::Damaged { at, why: "it claims more than 4 MiB" });
                }
                refill(reader.as_mut(), &failure, at)?;
            }
            Err(_) => return Err(CaptureError::Damaged { at, why: "its lengths contradict each other" }),
        }
    }
}

/// The reader forgets why it could not read; [`Patient`] remembers.
fn refill(
    reader: &mut dyn PcapReaderIterator,
    failure: &RefCell<Option<io::Error>>,
    at: u64,
) -> Result<(), CaptureError> {
    if reader.refill().is_ok() {
        return Ok(());
    }
    let source = failure.take().unwrap_or_else(|| io::ErrorKind::Other.into());
    Err(CaptureError::Read { at, source })
}

/// The file header of a pcap or the section header of a pcapng, in full however little a pipe gives at a time: the
/// readers want it from their first read. Shorter only if the input is.
fn head(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(PCAP_HEADER);
    input.take(12).read_to_end(&mut head)?;
    let length = match head.as_slice() {
        [a, b, c, d, length @ .., 0x4d, 0x3c, 0x2b, 0x1a] if [*a, *b, *c, *d] == PCAPNG => le(length),
        [a, b, c, d, length @ .., 0x1a, 0x2b, 0x3c, 0x4d] if [*a, *b, *c, *d] == PCAPNG => le(length).swap_bytes(),
        _ => 0,
    };
    let wanted = usize::try_from(length).unwrap_or(BUFFER).clamp(PCAP_HEADER, BUFFER.saturating_div(2));
    let missing = u64::try_from(wanted.saturating_sub(head.len())).unwrap_or(0);
    input.take(missing).read_to_end(&mut head)?;
    Ok(head)
}

fn le(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |four| u32::from_le_bytes(*four))
}

/// A source that goes on after a signal and remembers why it failed.
struct Patient<R> {
    inner: R,
    failure: Rc<RefCell<Option<io::Error>>>,
}

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let kind = error.kind();
                    self.failure.replace(Some(error));
                    return Err(kind.into());
                }
                read => return read,
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Interface {
    link: Option<Link>,
    ticks_per_second: u64,
    offset_seconds: i64,
}

/// What one block means for those after it.
#[derive(Default)]
struct Blocks {
    interfaces: Vec<Interface>,
    summary: ReadSummary,
}

impl Blocks {
    fn take(&mut self, block: &PcapBlockOwned<'_>, each: &mut impl FnMut(&Frame<'_>)) -> Result<(), CaptureError> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let number = header.network.0;
                let link = Link::from_number(number).ok_or(CaptureError::LinkType { number })?;
                let ticks_per_second = if header.is_nanosecond_precision() { NANOS } else { 1_000_000 };
                self.interfaces = vec![Interface { link: Some(link), ticks_per_second, offset_seconds: 0 }];
            }
            PcapBlockOwned::Legacy(packet) => {
                let Some(interface) = self.interfaces.first().copied() else { return Ok(()) };
                let ticks = u64::from(packet.ts_sec)
                    .saturating_mul(interface.ticks_per_second)
                    .saturating_add(u64::from(packet.ts_usec));
                self.frame(Some(interface), ticks, packet.data, packet.origlen, each);
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => self.interfaces.clear(),
            PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
                if self.interfaces.len() < INTERFACES_MAX {
                    self.interfaces.push(Interface {
                        link: Link::from_number(description.linktype.0),
                        ticks_per_second: description.ts_resolution().unwrap_or(1_000_000).max(1),
                        offset_seconds: description.if_tsoffset,
                    });
                }
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let interface = usize::try_from(packet.if_id).ok().and_then(|id| self.interfaces.get(id)).copied();
                let ticks = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                self.frame(interface, ticks, packet.packet_data(), packet.origlen, each);
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                // It belongs to the first interface and has no time (draft-ietf-opsawg-pcapng section 4.4).
                let interface = self.interfaces.first().copied();
                self.frame(interface, 0, packet.packet_data(), packet.origlen, each);
            }
            PcapBlockOwned::NG(_) => {}
        }
        Ok(())
    }

    fn frame(
        &mut self,
        interface: Option<Interface>,
        ticks: u64,
        bytes: &[u8],
        wire_len: u32,
        each: &mut impl FnMut(&Frame<'_>),
    ) {
        let Some((interface, link)) = interface.and_then(|interface| Some((interface, interface.link?))) else {
            self.summary.unreadable = self.summary.unreadable.saturating_add(1);
            return;
        };
        self.summary.frames = self.summary.frames.saturating_add(1);
        let wire_len = usize::try_from(wire_len).unwrap_or(usize::MAX);
        each(&Frame { link, at: time(ticks, interface), bytes, wire_len });
    }
}

/// Nanoseconds since 1970 of `ticks`.
fn time(ticks: u64, interface: Interface) -> Timestamp {
    let rate = interface.ticks_per_second;
    let seconds = ticks.checked_div(rate).unwrap_or(0).saturating_add_signed(interface.offset_seconds);
    let rest = u128::from(ticks.checked_rem(rate).unwrap_or(0)).saturating_mul(u128::from(NANOS));
    let nanos = u64::try_from(rest.checked_div(u128::from(rate)).unwrap_or(0)).unwrap_or(0);
    Timestamp::from_nanos(seconds.saturating_mul(NANOS).saturating_add(nanos))
}
