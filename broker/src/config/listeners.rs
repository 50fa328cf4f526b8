//! Where a broker listens, and what it tells others to connect to.

use super::definition::split_list;
use crate::error::Fault;

/// How a listener protects what passes over it. Only plaintext is served so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl Protocol {
    /// The number that registrations carry.
    pub fn id(self) -> i16 {
        self as i16
    }

    pub fn from_id(id: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.id() == id)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Ssl => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslSsl => "SASL_SSL",
        }
    }

    const ALL: [Self; 4] = [Self::Plaintext, Self::Ssl, Self::SaslPlaintext, Self::SaslSsl];

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }
}

/// `NAME://host:port`, with the protocol that the name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Upper case.
    pub listener: String,
    pub protocol: Protocol,
    /// Empty: every address of the machine.
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listeners {
    /// All listeners of this process, the controller's among them.
    pub all: Vec<Endpoint>,
    /// What the controller registers and its voters' record tells, by listener name.
    pub advertised_controller: Vec<Endpoint>,
    /// What the broker registers, by listener name; never the controller's.
    pub advertised: Vec<Endpoint>,
    pub inter_broker: String,
    /// The first one is what brokers use to reach a controller.
    pub controller: Vec<String>,
}

impl Listeners {
    pub fn is_controller(&self, listener: &str) -> bool {
        self.controller.iter().any(|name| name == listener)
    }

    /// The listeners that clients and other brokers use.
    pub fn of_broker(&self) -> impl Iterator<Item = &Endpoint> {
        self.all.iter().filter(|endpoint| !self.is_controller(&endpoint.listener))
    }

    /// The listeners that only nodes of the cluster use.
    pub fn of_controller(&self) -> impl Iterator<Item = &Endpoint> {
        self.all.iter().filter(|endpoint| self.is_controller(&endpoint.listener))
    }
}

/// The settings that listeners are made of, as text.
pub(super) struct Input<'a> {
    pub listeners: &'a str,
    pub advertised: Option<&'a str>,
    pub protocols: Option<&'a str>,
    pub inter_broker_name: Option<&'a str>,
    pub inter_broker_protocol: Option<&'a str>,
    pub controller_names: &'a str,
    pub controller_role: bool,
    pub broker_role: bool,
}

pub(super) fn listeners(input: &Input<'_>) -> Result<Listeners, Fault> {
    let controller: Vec<String> =
        split_list(input.controller_names).iter().map(|name| name.to_ascii_uppercase()).collect();
    let protocols = Protocols::parse(input.protocols, &controller)?;
    let all = endpoints("listeners", input.listeners, &protocols)?;
    unique("listeners", &all, true)?;
    let inter_broker = inter_broker_name(input)?;
    let is_controller = |name: &str| controller.iter().any(|other| other == name);
    let advertised = match input.advertised {
        Some(text) => endpoints("advertised.listeners", text, &protocols)?,
        None => all.iter().filter(|one| !is_controller(&one.listener)).cloned().collect(),
    };
    let (advertised_controller, advertised): (Vec<_>, Vec<_>) =
        advertised.into_iter().partition(|one| is_controller(&one.listener));
    unique("advertised.listeners", &advertised, false)?;
    for endpoint in advertised.iter().chain(&advertised_controller) {
        if !all.iter().any(|one| one.listener == endpoint.listener) {
            return Err(wrong(format!(
                "advertised.listeners names {}, which is not in listeners",
                endpoint.listener
            )));
        }
        if endpoint.host == "0.0.0.0" || endpoint.host == "::" {
            return Err(wrong(format!(
                "advertised.listeners cannot use the address {}, to which nobody can connect; \
                 give a host name, or listen on a certain one",
                endpoint.host
            )));
        }
    }
    let advertised_controller = all
        .iter()
        .filter(|one| is_controller(&one.listener))
        .map(|own| {
            let told = advertised_controller.iter().find(|it| it.listener == own.listener);
            told.unwrap_or(own).clone()
        })
        .collect();
    if input.broker_role && !advertised.iter().any(|it| it.listener == inter_broker) {
        return Err(wrong(format!(
            "inter.broker.listener.name is {inter_broker}, which is not among the advertised \
             listeners ({}); set inter.broker.listener.name to one of them",
            names(&advertised)
        )));
    }
    if is_controller(&inter_broker) {
        return Err(wrong(format!(
            "{inter_broker} is in controller.listener.names and cannot also be \
             inter.broker.listener.name"
        )));
    }
    if input.controller_role && !all.iter().any(|one| is_controller(&one.listener)) {
        return Err(wrong(format!(
            "process.roles has controller, so listeners must have one of \
             controller.listener.names ({})",
            controller.join(", ")
        )));
    }
    for endpoint in &all {
        if endpoint.protocol != Protocol::Plaintext {
            return Err(wrong(format!(
                "listener {} asks for {}, which is not supported yet: only PLAINTEXT is, and \
                 serving it without protection would be wrong",
                endpoint.listener,
                endpoint.protocol.name()
            )));
        }
    }
    Ok(Listeners { all, advertised_controller, advertised, inter_broker, controller })
}

fn inter_broker_name(input: &Input<'_>) -> Result<String, Fault> {
    match (input.inter_broker_name, input.inter_broker_protocol) {
        (Some(_), Some(_)) => Err(wrong(
            "only one of inter.broker.listener.name and security.inter.broker.protocol can be set",
        )),
        (Some(name), None) => Ok(name.trim().to_ascii_uppercase()),
        (None, protocol) => Ok(protocol.unwrap_or("PLAINTEXT").trim().to_ascii_uppercase()),
    }
}

struct Protocols {
    given: Option<Vec<(String, Protocol)>>,
    controller: Vec<String>,
}

impl Protocols {
    fn parse(text: Option<&str>, controller: &[String]) -> Result<Self, Fault> {
        let Some(text) = text else {
            return Ok(Self { given: None, controller: controller.to_vec() });
        };
        let mut given = Vec::new();
        for item in split_list(text) {
            let parsed = item.split_once(':').and_then(|(name, protocol)| {
                Some((name.trim().to_ascii_uppercase(), Protocol::from_name(protocol.trim())?))
            });
            let Some((name, protocol)) = parsed else {
                return Err(wrong(format!(
                    "listener.security.protocol.map: {item:?} is not NAME:PROTOCOL with one of \
                     PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"
                )));
            };
            if given.iter().any(|(other, _)| *other == name) {
                return Err(wrong(format!("listener.security.protocol.map names {name} twice")));
            }
            given.push((name, protocol));
        }
        Ok(Self { given: Some(given), controller: controller.to_vec() })
    }

    fn of(&self, listener: &str) -> Result<Protocol, Fault> {
        let found = match &self.given {
            Some(map) => map.iter().find(|(name, _)| name == listener).map(|(_, p)| *p),
            // Without a map a protocol's name stands for itself, and a controller is plaintext.
            None => Protocol::from_name(listener).or_else(|| {
                self.controller.iter().any(|n| n == listener).then_some(Protocol::Plaintext)
            }),
        };
        found.ok_or_else(|| {
            wrong(format!(
                "No security protocol defined for listener {listener}: add {listener}:PLAINTEXT \
                 to listener.security.protocol.map"
            ))
        })
    }
}

fn endpoints(setting: &str, text: &str, protocols: &Protocols) -> Result<Vec<Endpoint>, Fault> {
    let items = split_list(text);
    if items.is_empty() {
        return Err(wrong(format!("{setting} is empty")));
    }
    items
        .into_iter()
        .map(|item| {
            let (listener, host, port) = endpoint(item)
                .ok_or_else(|| wrong(format!("{setting}: {item:?} is not NAME://HOST:PORT")))?;
            let protocol = protocols.of(&listener)?;
            Ok(Endpoint { listener, protocol, host, port })
        })
        .collect()
}

fn endpoint(item: &str) -> Option<(String, String, u16)> {
    let (name, address) = item.split_once("://")?;
    let (host, port) = address.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || !name.chars().all(good) || host.contains(['/', ' ']) {
        return None;
    }
    Some((name.to_ascii_uppercase(), host.to_owned(), port.parse().ok()?))
}

fn unique(setting: &str, endpoints: &[Endpoint], ports: bool) -> Result<(), Fault> {
    for (at, one) in endpoints.iter().enumerate() {
        for other in &endpoints[..at] {
            if one.listener == other.listener {
                return Err(wrong(format!("{setting} has the name {} twice", one.listener)));
            }
            let same_place = one.port != 0
                && one.port == other.port
                && (one.host == other.host || one.host.is_empty() || other.host.is_empty());
            if ports && same_place {
                return Err(wrong(format!(
                    "{setting}: {} and {} have the same port {}",
                    other.listener, one.listener, one.port
                )));
            }
        }
    }
    Ok(())
}

fn names(endpoints: &[Endpoint]) -> String {
    endpoints.iter().map(|e| e.listener.as_str()).collect::<Vec<_>>().join(", ")
}

pub(super) fn wrong(why: impl Into<String>) -> Fault {
    Fault::Start(why.into())
}
