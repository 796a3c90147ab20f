//! Who may report, and how much. In: credentials as the kernel tells them. Out: admitted or why not. The file's mode keeps
//! others out already; this holds for descriptors that were handed on, and for a mode that somebody changed (threats.md
//! T26). Bound: [`USERS_MAX`] users.

use std::{collections::HashMap, time::Duration};

use nix::unistd::{Gid, Group, Uid, User, geteuid};

use crate::clock::Timestamp;

/// Users remembered: a web server's workers are one.
const USERS_MAX: usize = 1024;
/// For how long it is believed who is in the group.
const BELIEVED: Duration = Duration::from_secs(30);

/// Who tells, as the kernel says (unix(7), SCM_CREDENTIALS and SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process, if it is in sight of this one.
    pub pid: Option<i32>,
}

impl Peer {
    /// From what the kernel filled in; a process in a namespace beside this one has the id 0.
    pub(super) fn new(uid: u32, gid: u32, pid: i32) -> Self {
        Self { uid, gid, pid: (pid != 0).then_some(pid) }
    }
}

/// Why a frame isn't read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Neither root nor a member of the group.
    Peer,
    /// More than one user may send in a second.
    TooFast,
}

impl Refused {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Peer, Self::TooFast];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::TooFast => "too_fast",
        }
    }
}

/// How a frame came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Datagram,
    Stream,
}

/// Everybody who sent something.
pub(super) struct Peers {
    group: Option<Gid>,
    own: Uid,
    /// Frames a second of one user: datagrams, and lines of streams.
    per_second: [u32; 2],
    users: HashMap<u32, Known>,
}

/// What is known of a user.
#[derive(Clone, Copy, Default)]
struct Known {
    member: bool,
    /// Until then.
    believed: Timestamp,
    seconds: [Second; 2],
}

/// Frames since a moment.
#[derive(Clone, Copy, Default)]
struct Second {
    since: Timestamp,
    frames: u32,
}

impl Second {
    /// Whether one more is within the bound.
    fn admit(&mut self, most: u32, now: Timestamp) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, frames: 0 };
        }
        self.frames = self.frames.saturating_add(1);
        self.frames <= most
    }
}

impl Peers {
    pub(super) fn new(group: Option<Gid>, datagrams: u32, lines: u32) -> Self {
        Self { group, own: geteuid(), per_second: [datagrams, lines], users: HashMap::new() }
    }

    /// Whether somebody may report at all.
    pub(super) fn may_report(&mut self, peer: Peer, now: Timestamp) -> bool {
        peer.uid == 0
            || peer.uid == self.own.as_raw()
            || self.group.is_some_and(|group| peer.gid == group.as_raw())
            || self.user(peer.uid, now).member
    }

    /// One frame.
    pub(super) fn admit(&mut self, peer: Peer, way: Way, now: Timestamp) -> Result<(), Refused> {
        if !self.may_report(peer, now) {
            return Err(Refused::Peer);
        }
        let way = way as usize;
        let most = self.per_second[way];
        let second = &mut self.user(peer.uid, now).seconds[way];
        if second.admit(most, now) { Ok(()) } else { Err(Refused::TooFast) }
    }

    fn user(&mut self, uid: u32, now: Timestamp) -> &mut Known {
        if self.users.len() >= USERS_MAX && !self.users.contains_key(&uid) {
            self.users.retain(|_, user| now < user.believed);
            if self.users.len() >= USERS_MAX {
                self.users.clear();
            }
        }
        let group = self.group;
        let user = self.users.entry(uid).or_default();
        if now >= user.believed {
            user.member = group.is_some_and(|group| is_member(uid, group));
            user.believed = now.plus(BELIEVED);
        }
        user
    }
}

/// Whether a user is in a group, as its own or as a further one.
fn is_member(uid: u32, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return false };
    let members = || Group::from_gid(group).ok().flatten().map(|group| group.mem).unwrap_or_default();
    user.gid == group || members().contains(&user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn root_and_the_group_may_report_and_nobody_else() {
        let group = Gid::from_raw(4_000_000);
        let mut peers = Peers::new(Some(group), 10, 10);
        peers.own = Uid::from_raw(0);
        for (uid, gid, may) in [(0, 0, true), (4_000_001, 4_000_000, true), (65_534, 65_534, false)] {
            let admitted = peers.admit(Peer::new(uid, gid, 7), Way::Datagram, at(1));
            assert_eq!(admitted, if may { Ok(()) } else { Err(Refused::Peer) }, "{uid}");
        }
        // On any Linux, root's own group is group 0.
        assert!(is_member(0, Gid::from_raw(0)));
    }

    #[test]
    fn each_user_has_its_own_rate_in_each_way() {
        let mut peers = Peers::new(Some(Gid::from_raw(7)), 3, 1);
        let (root, other) = (Peer::new(0, 0, 1), Peer::new(4_000_001, 7, 1));
        let mut count = |peer, way, now| (0..10).filter(|_| peers.admit(peer, way, now).is_ok()).count();
        assert_eq!(count(root, Way::Datagram, at(1)), 3);
        assert_eq!(count(root, Way::Stream, at(1)), 1);
        assert_eq!(count(other, Way::Datagram, at(1)), 3);
        assert_eq!(count(root, Way::Datagram, at(2)), 3);
    }

    #[test]
    fn users_are_bounded() {
        let mut peers = Peers::new(Some(Gid::from_raw(7)), 3, 1);
        for uid in 0..10_000 {
            let _ = peers.admit(Peer::new(4_000_000 + uid, 7, 1), Way::Datagram, at(1));
        }
        assert!(peers.users.len() <= USERS_MAX);
    }
}
