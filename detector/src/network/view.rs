//! How a request's networks and fingerprint stand, when it came.

/// Requests of the last minutes, the latest weighing most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Requests a minute.
    pub per_minute: f32,
    /// The share of them that was stopped, 0 to 1; 0 of few.
    pub stopped: f32,
}

/// How a request's networks and fingerprint stand.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct View {
    /// Its address: an IPv4 address, an IPv6 /64.
    pub address: Rates,
    /// Its network: a /24, of IPv6 a /48.
    pub prefix: Rates,
    /// Its autonomous system, if that is known.
    pub asn: Option<Rates>,
    /// Its fingerprint.
    pub fingerprint: Rates,
    /// Networks where that fingerprint was seen within the hour: an estimate.
    pub networks: u32,
    /// How its pages follow each other wherever they come from: the pauses' standard deviation as a share of their mean, if
    /// there were enough. People give 1, a clock gives 0.
    pub pace: Option<f32>,
    /// Kinds of clients at its address that browsed as people do, within the hour: an estimate.
    pub clients: u32,
    /// Somebody at its address browsed so with its fingerprint, or so many did that it can't be told.
    pub shared: bool,
    /// Networks that its session came from within ten minutes; 1 without a session id.
    pub session_networks: u32,
    /// Countries, as far as they are known; 1 without a session id.
    pub session_countries: u32,
}
