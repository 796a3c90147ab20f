//! Numbers to text, into a buffer on the stack that moves to the heap only for a hello beyond any client known.

use smallvec::SmallVec;

/// Text in the making. The JA3 string of a current browser has some 400 bytes.
pub(super) type Text = SmallVec<[u8; 1024]>;

/// Codes are worked on this many at a time: appending one by one costs more than computing them.
const BLOCK: usize = 64;

/// Codes of one list. Current clients send fewer of each kind; one that sends more costs an allocation.
pub(super) type List = SmallVec<[u16; BLOCK]>;

/// All of `codes`.
#[inline]
pub(super) fn list(mut codes: impl Iterator<Item = u16>) -> List {
    let mut block = [0; BLOCK];
    let count = fill(&mut block, &mut codes);
    let mut list = List::from_slice(block.get(..count).unwrap_or_default());
    list.extend(codes);
    list
}

/// `codes` in ascending order.
#[inline]
pub(super) fn sorted(codes: &[u16]) -> List {
    let mut list = List::from_slice(codes);
    list.sort_unstable();
    list
}

/// Moves items into `block` until one of the two ends; how many.
#[inline]
fn fill<T>(block: &mut [T; BLOCK], items: &mut impl Iterator<Item = T>) -> usize {
    let mut count: usize = 0;
    for (place, item) in block.iter_mut().zip(items) {
        *place = item;
        count = count.wrapping_add(1);
    }
    count
}

const fn hex_pairs() -> [[u8; 2]; 256] {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would refuse a bad index")]
        {
            pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        }
        byte = byte.wrapping_add(1);
    }
    pairs
}

static HEX: [[u8; 2]; 256] = hex_pairs();

/// The two lower-case hex digits of `byte`.
#[inline]
pub(super) fn hex(byte: u8) -> [u8; 2] {
    HEX.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Appends `codes` as four hex digits each, with commas between.
#[inline]
pub(super) fn hex_list(text: &mut Text, codes: impl Iterator<Item = u16>) {
    let mut groups = codes.map(|code| {
        let [high, low] = code.to_be_bytes();
        let ([a, b], [c, d]) = (hex(high), hex(low));
        [a, b, c, d, b',']
    });
    let before = text.len();
    let mut block = [[0; 5]; BLOCK];
    loop {
        let count = fill(&mut block, &mut groups);
        text.extend_from_slice(block.get(..count).unwrap_or_default().as_flattened());
        if count < BLOCK {
            break;
        }
    }
    if text.len() > before {
        text.pop();
    }
}

/// Bytes that hold the decimal digits of any code and the `-` behind them, with two to spare.
const GROUP: usize = size_of::<u64>();

/// Appends `numbers` in decimal, with `-` between.
#[inline]
pub(super) fn decimal_list(text: &mut Text, mut numbers: impl Iterator<Item = u16>) {
    let before = text.len();
    let mut block = [0; BLOCK * GROUP];
    loop {
        let (mut count, mut end): (usize, usize) = (0, 0);
        for number in numbers.by_ref().take(BLOCK) {
            let (group, length) = decimal_group(number);
            // Whole groups are written, each over what the one before had to spare.
            if let Some(place) = block.get_mut(end..).and_then(<[u8]>::first_chunk_mut) {
                *place = group;
            }
            end = end.wrapping_add(length);
            count = count.wrapping_add(1);
        }
        text.extend_from_slice(block.get(..end).unwrap_or_default());
        if count < BLOCK {
            break;
        }
    }
    if text.len() > before {
        text.pop();
    }
}

/// Appends `number` in decimal.
#[inline]
pub(super) fn decimal(text: &mut Text, number: u16) {
    decimal_list(text, std::iter::once(number));
}

/// `number` in decimal and a `-`, and how many bytes these are.
#[inline]
fn decimal_group(number: u16) -> ([u8; GROUP], usize) {
    let digit = |power: u16| {
        let digit = number.checked_div(power).unwrap_or(0) % 10;
        u8::try_from(digit).unwrap_or(0).wrapping_add(b'0')
    };
    let all = [digit(10_000), digit(1000), digit(100), digit(10), digit(1), b'-', 0, 0];
    // Its leading zeros are shifted out, eight bits each.
    let (zeros, length) = match number {
        0..10 => (32, 2),
        10..100 => (24, 3),
        100..1000 => (16, 4),
        1000..10_000 => (8, 5),
        _ => (0, 6),
    };
    (u64::from_le_bytes(all).wrapping_shr(zeros).to_le_bytes(), length)
}

/// Text of ours, which is ASCII.
pub(super) fn string(text: &[u8]) -> String {
    String::from_utf8(text.to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_read_as_std_writes_them() {
        for number in 0..=u16::MAX {
            let mut text = Text::new();
            decimal(&mut text, number);
            assert_eq!(string(&text), number.to_string());
            text.clear();
            hex_list(&mut text, [number].into_iter());
            assert_eq!(string(&text), format!("{number:04x}"));
        }
    }

    #[test]
    fn lists_of_any_length_have_their_separators() {
        for length in [0, 1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK] {
            let codes: Vec<u16> = (0..length as u32).map(|code| (code * 40_503) as u16).collect();
            let mut text = Text::new();
            decimal_list(&mut text, codes.iter().copied());
            let words: Vec<String> = codes.iter().map(u16::to_string).collect();
            assert_eq!(string(&text), words.join("-"));
        }
    }
}
