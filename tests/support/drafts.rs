//! ClientHellos that are made up: a seed in, drafts of hellos and variants of them out, and their bytes as one TLS
//! record. What is no part of a JA4 (random, session ID, most bodies) is drawn anew each time that bytes are made.

/// GREASE (RFC 8701), which says nothing about a client.
const GREASE: [u16; 16] = [
    0x0a0a, 0x1a1a, 0x2a2a, 0x3a3a, 0x4a4a, 0x5a5a, 0x6a6a, 0x7a7a, 0x8a8a, 0x9a9a, 0xaaaa, 0xbaba, 0xcaca, 0xdada,
    0xeaea, 0xfafa,
];
const SERVER_NAME: u16 = 0;
const SIGNATURES: u16 = 13;
const PROTOCOLS: u16 = 16;
const VERSIONS: u16 = 43;
/// Of resumption, and padding: they come and go.
const UNSTABLE: [u16; 4] = [21, 35, 41, 42];

/// Numbers without any system randomness: the same on each run (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// Less than `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % end.max(1) as u64).unwrap_or(0)
    }

    /// One time in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Puts `items` into any order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index + 1));
        }
    }

    fn code(&mut self) -> u16 {
        loop {
            let code = self.number() as u16;
            if !GREASE.contains(&code) {
                return code;
            }
        }
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.number() as u8).collect()
    }
}

/// A hello to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    legacy_version: u16,
    ciphers: Vec<u16>,
    /// `None`: no extension block.
    extensions: Option<Vec<u16>>,
    signatures: Vec<u16>,
    versions: Vec<u16>,
    protocols: Vec<Vec<u8>>,
    server_name: Vec<u8>,
}

/// What makes a hello one of another client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// One cipher is another.
    Cipher,
    /// One extension is another.
    Extension,
    /// One signature algorithm is another.
    Signature,
    /// Two of them change places.
    SignatureOrder,
    /// Another protocol comes first.
    Protocol,
    /// Another version is the newest.
    Version,
}

impl Change {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::Cipher, Self::Extension, Self::Signature, Self::SignatureOrder, Self::Protocol, Self::Version];
}

impl Draft {
    /// Any hello: most are like those of browsers, some odd.
    pub fn any(dice: &mut Dice) -> Self {
        let many = |dice: &mut Dice, usual: usize, most: usize| {
            if dice.one_in(20) { dice.below(most) } else { dice.below(usual) }
        };
        let ciphers = (0..many(dice, 40, 180)).map(|_| dice.code()).collect();
        let mut extensions: Vec<u16> = (0..many(dice, 20, 130)).map(|_| 50 + dice.code() % 9000).collect();
        extensions.retain(|code| !GREASE.contains(code));
        for code in [SERVER_NAME, SIGNATURES, PROTOCOLS, VERSIONS].into_iter().chain(UNSTABLE) {
            if !dice.one_in(4) {
                extensions.push(code);
            }
            if dice.one_in(40) {
                extensions.push(code);
            }
        }
        dice.shuffle(&mut extensions);
        let version = |dice: &mut Dice| if dice.one_in(20) { dice.code() } else { 0x0301 + dice.below(4) as u16 };
        let name = |dice: &mut Dice| match dice.below(4) {
            0 => b"h2".to_vec(),
            1 => b"http/1.1".to_vec(),
            _ => {
                let length = dice.below(6);
                dice.bytes(length)
            }
        };
        let signatures = (0..many(dice, 12, 90)).map(|_| dice.code()).collect();
        let draft = Self {
            legacy_version: version(dice),
            ciphers,
            extensions: (!dice.one_in(30)).then_some(extensions),
            signatures,
            versions: (0..dice.below(5)).map(|_| version(dice)).collect(),
            protocols: (0..dice.below(5)).map(|_| name(dice)).collect(),
            server_name: b"example.org".to_vec(),
        };
        draft.greased(dice)
    }

    /// The same client once more: other orders of what has none, other GREASE, another server's name.
    #[must_use]
    pub fn same(&self, dice: &mut Dice) -> Self {
        let mut same = self.clone();
        dice.shuffle(&mut same.ciphers);
        if let Some(extensions) = &mut same.extensions {
            dice.shuffle(extensions);
        }
        let length = 1 + dice.below(60);
        same.server_name = dice.bytes(length);
        same.greased(dice)
    }

    /// The same client in another session: as [`Draft::same`], with other ones of the extensions that come and go.
    /// `None` where it has no extensions.
    #[must_use]
    pub fn resumed(&self, dice: &mut Dice) -> Option<Self> {
        let mut resumed = self.same(dice);
        let extensions = resumed.extensions.as_mut()?;
        let before = extensions.len();
        extensions.retain(|code| !UNSTABLE.contains(code));
        let removed = before - extensions.len();
        extensions.extend((0..removed + 1).map(|_| UNSTABLE[dice.below(4)]));
        dice.shuffle(extensions);
        Some(resumed)
    }

    /// Another client, in nothing but `change`. `None` where there is nothing to change.
    #[must_use]
    pub fn changed(&self, change: Change, dice: &mut Dice) -> Option<Self> {
        let mut changed = self.clone();
        let has = |code| self.extensions.iter().flatten().any(|extension| *extension == code);
        let place = |list: &[u16], dice: &mut Dice| {
            let real: Vec<usize> = (0..list.len()).filter(|place| !GREASE.contains(&list[*place])).collect();
            (!real.is_empty()).then(|| real[dice.below(real.len())])
        };
        let other = |code: u16, dice: &mut Dice| loop {
            let new = dice.code();
            if new != code {
                return new;
            }
        };
        match change {
            Change::Cipher => {
                let place = place(&self.ciphers, dice)?;
                changed.ciphers[place] = other(self.ciphers[place], dice);
            }
            Change::Extension => {
                let extensions = changed.extensions.as_mut()?;
                let plain: Vec<usize> = (0..extensions.len())
                    .filter(|place| extensions[*place] >= 50 && !GREASE.contains(&extensions[*place]))
                    .collect();
                let place = *plain.get(dice.below(plain.len()))?;
                extensions[place] += 20_000;
                if GREASE.contains(&extensions[place]) {
                    extensions[place] += 1;
                }
            }
            Change::Signature => {
                let place = place(&self.signatures, dice).filter(|_| has(SIGNATURES))?;
                changed.signatures[place] = other(self.signatures[place], dice);
            }
            Change::SignatureOrder => {
                let real = |list: &[u16]| list.iter().filter(|code| !GREASE.contains(code)).count();
                if !has(SIGNATURES) || real(&self.signatures) < 2 {
                    return None;
                }
                let real: Vec<usize> =
                    (0..self.signatures.len()).filter(|place| !GREASE.contains(&self.signatures[*place])).collect();
                let first = dice.below(real.len() - 1);
                changed.signatures.swap(real[first], real[first + 1]);
                if changed.signatures == self.signatures {
                    return None;
                }
            }
            Change::Protocol => {
                if !has(PROTOCOLS) {
                    return None;
                }
                let first = self.protocols.first().and_then(|name| name.first());
                let new = if first == Some(&b'z') { b"yy" } else { b"zz" };
                changed.protocols.insert(0, new.to_vec());
            }
            Change::Version => {
                // Newer than any of TLS.
                const DTLS_1_3: u16 = 0xfefc;
                if self.versions.iter().chain([&self.legacy_version]).any(|version| *version >= DTLS_1_3 & 0xff00) {
                    return None;
                }
                if has(VERSIONS) { changed.versions.push(DTLS_1_3) } else { changed.legacy_version = DTLS_1_3 }
            }
        }
        Some(changed)
    }

    /// With other GREASE, or none.
    fn greased(mut self, dice: &mut Dice) -> Self {
        let grease = |list: &mut Vec<u16>, dice: &mut Dice| {
            list.retain(|code| !GREASE.contains(code));
            for _ in 0..dice.below(3) {
                list.insert(dice.below(list.len() + 1), GREASE[dice.below(GREASE.len())]);
            }
        };
        grease(&mut self.ciphers, dice);
        grease(&mut self.signatures, dice);
        grease(&mut self.versions, dice);
        if let Some(extensions) = &mut self.extensions {
            grease(extensions, dice);
        }
        self
    }

    /// Its bytes, in one record.
    pub fn record(&self, dice: &mut Dice) -> Vec<u8> {
        let mut body = self.legacy_version.to_be_bytes().to_vec();
        body.extend(dice.bytes(32));
        let session_id = dice.below(33);
        let session_id = dice.bytes(session_id);
        body.extend(vector8(&session_id));
        body.extend(vector16(&codes(&self.ciphers)));
        let compression = 1 + if dice.one_in(10) { dice.below(20) } else { 0 };
        let compression = dice.bytes(compression);
        body.extend(vector8(&compression));
        if let Some(extensions) = &self.extensions {
            let mut block = Vec::new();
            for code in extensions {
                block.extend(code.to_be_bytes());
                block.extend(vector16(&self.body(*code, dice)));
            }
            body.extend(vector16(&block));
        }
        let message = [&[1, 0][..], &vector16(&body)].concat();
        [&[22, 3, 1][..], &vector16(&message)].concat()
    }

    fn body(&self, code: u16, dice: &mut Dice) -> Vec<u8> {
        match code {
            SERVER_NAME => vector16(&[&[0][..], &vector16(&self.server_name)].concat()),
            SIGNATURES => vector16(&codes(&self.signatures)),
            VERSIONS => vector8(&codes(&self.versions)),
            PROTOCOLS => vector16(&self.protocols.iter().flat_map(|name| vector8(name)).collect::<Vec<_>>()),
            _ => {
                let length = if dice.one_in(10) { dice.below(400) } else { dice.below(20) };
                dice.bytes(length)
            }
        }
    }
}

fn codes(list: &[u16]) -> Vec<u8> {
    list.iter().flat_map(|code| code.to_be_bytes()).collect()
}

/// # Panics
/// If `bytes` are more than its length can say.
fn vector8(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("a short list");
    [&[length][..], bytes].concat()
}

/// # Panics
/// As above.
fn vector16(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a list of a hello");
    [&length.to_be_bytes()[..], bytes].concat()
}
