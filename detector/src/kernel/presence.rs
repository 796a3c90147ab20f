//! Which XDP program is on an interface: its name in, the ids of the programs out. Asked of the kernel by rtnetlink(7),
//! which takes no capability, since a pinned link doesn't say whether its interface is still there.

use nix::{errno::Errno, net::if_::if_nametoindex};

use super::{
    Error,
    netlink::{Extent, ask, attributes},
};

// linux/rtnetlink.h and linux/if_link.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_XDP: u16 = 43;
/// The one program there is, or, with programs in several modes, that of the driver, the stack and the device.
const XDP_PROGRAM_IDS: std::ops::RangeInclusive<u16> = 4..=7;
/// Of an attribute's type: it holds attributes.
const NESTED: u16 = 1 << 15;
/// Bytes of `struct ifinfomsg`; the index stands at 4.
const LINK_HEADER: usize = 16;

/// Whether the program of this id is on the interface; `false` of one that isn't there.
///
/// # Errors
/// The kernel's.
pub(super) fn has_program(interface: &str, id: u32) -> Result<bool, Error> {
    let Ok(index) = if_nametoindex(interface) else { return Ok(false) };
    let body = [[0; 4], index.to_ne_bytes(), [0; 4], [0; 4]].concat();
    let mut found = false;
    let asked = ask((RTM_GETLINK, RTM_NEWLINK), Extent::One, &body, &mut |link| found |= programs(link).contains(&id));
    match asked {
        Ok(()) => Ok(found),
        // It went in between.
        Err(Errno::ENODEV) => Ok(false),
        Err(error) => Err(Error::System("asking for an interface's program", error.desc().to_owned())),
    }
}

/// The ids of the XDP programs of an interface.
fn programs(link: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    attributes(link.get(LINK_HEADER..).unwrap_or_default(), &mut |kind, value| {
        if kind & !NESTED == IFLA_XDP {
            attributes(value, &mut |kind, value| {
                if let (true, Some(id)) = (XDP_PROGRAM_IDS.contains(&kind), value.first_chunk()) {
                    ids.push(u32::from_ne_bytes(*id));
                }
            });
        }
    });
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::tests::attribute;

    #[test]
    fn the_programs_of_a_link_are_found_in_every_mode() {
        let link =
            |xdp: &[u8]| [&[0; LINK_HEADER], &*attribute(3, b"eth0\0"), &attribute(IFLA_XDP | NESTED, xdp)].concat();
        assert_eq!(programs(&link(&attribute(2, &[0]))), [0; 0]);
        let one = [attribute(2, &[1]), attribute(4, &7u32.to_ne_bytes())].concat();
        assert_eq!(programs(&link(&one)), [7]);
        let two = [attribute(2, &[4]), attribute(5, &7u32.to_ne_bytes()), attribute(6, &8u32.to_ne_bytes())].concat();
        assert_eq!(programs(&link(&two)), [7, 8]);
        assert_eq!(programs(&[]), [0; 0]);
    }

    #[test]
    fn the_kernel_answers() {
        assert!(!has_program("lo", u32::MAX).unwrap());
        assert!(!has_program("nosuch0", u32::MAX).unwrap());
    }
}
