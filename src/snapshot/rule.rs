//! Rules as the data plane uses them: names resolved to backends, weights summed, and what would have
//! to be searched for in each exchange found out once.

use std::fmt;
use std::sync::Arc;

use super::Backend;
use crate::model::{
    BackendName, BackendTarget, Cors, DirectResponse, Filter, Fraction, Redirect, Route, RouteName, Rule,
    WeightedBackend,
};

/// A route whose rules are compiled.
#[derive(Debug)]
pub struct CompiledRoute {
    /// As the user wrote it.
    pub route: Arc<Route>,
    /// In the user's order.
    pub rules: Box<[Arc<CompiledRule>]>,
}

/// A rule whose backends are resolved.
#[derive(Debug)]
pub struct CompiledRule {
    /// As the user wrote it: deadlines, retries, filters.
    pub rule: Arc<Rule>,
    /// The route it belongs to.
    pub route: RouteName,
    /// Its place in the route.
    pub index: u32,
    /// Who gets which share of the requests.
    pub split: Split,
    /// Who gets a copy, by the rule's filters.
    pub mirrors: Vec<(Arc<Backend>, Fraction)>,
    /// What the rule's filters do. A share may do more: [`Share::does`].
    pub does: FilterKinds,
}

/// What a list of filters contains, so that an exchange need not look for what is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterKinds {
    /// A direct response or a redirection: no endpoint is asked.
    pub replies: bool,
    /// Edits of the request's fields, or another host or path.
    pub changes_request: bool,
    /// Edits of the response's fields.
    pub changes_response: bool,
    /// Copies for other backends.
    pub mirrors: bool,
    /// Answers for scripts of other origins.
    pub cors: bool,
}

/// A filter that answers in the place of an endpoint.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'r> {
    /// With this.
    Direct(&'r DirectResponse),
    /// With a redirection.
    Redirect(&'r Redirect),
}

/// Who gets which share of a rule's requests.
#[derive(Debug)]
pub struct Split {
    /// Never empty. Shares of weight 0 are left out.
    shares: Box<[Share]>,
    /// Sum of the weights of each share and those before it; empty when there is no choice.
    ends: Box<[u64]>,
}

/// One share of a rule's requests.
#[derive(Debug)]
pub struct Share {
    /// Where it goes.
    pub target: Target,
    /// Filters for this share only, after the rule's.
    pub filters: Box<[Filter]>,
    /// Who gets a copy, by this share's filters.
    pub mirrors: Vec<(Arc<Backend>, Fraction)>,
    /// What this share's filters do.
    pub does: FilterKinds,
}

/// Where a share of requests goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// To a backend.
    Backend(Arc<Backend>),
    /// Nowhere, and why: 500.
    Invalid(Arc<str>),
    /// Nowhere: the rule has no backend, or none with a weight: 500 unless a filter answers.
    None,
}

impl CompiledRoute {
    /// Resolves the backends of a route. `resolve` is called for each mention of a backend.
    pub(super) fn compile(route: Arc<Route>, mut resolve: impl FnMut(&BackendName) -> Arc<Backend>) -> Self {
        let rules = (0..)
            .zip(&route.rules)
            .map(|(index, rule)| Arc::new(CompiledRule::compile(rule, &route.name, index, &mut resolve)))
            .collect();
        Self { route, rules }
    }

    /// Each mention of a backend, as often as `resolve` was called.
    pub(super) fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.rules.iter().flat_map(|rule| {
            let shares = rule.split.shares.iter();
            let targets = shares.clone().filter_map(|share| match &share.target {
                Target::Backend(backend) => Some(backend),
                Target::Invalid(_) | Target::None => None,
            });
            let copies = shares.flat_map(|share| &share.mirrors).chain(&rule.mirrors);
            targets.chain(copies.map(|(backend, _)| backend))
        })
    }
}

impl CompiledRule {
    /// The first filter that answers in the place of an endpoint.
    pub fn reply(&self) -> Option<Reply<'_>> {
        self.does.replies.then(|| reply(&self.rule.filters)).flatten()
    }

    /// One that leads to a backend, whatever is asked. The rule has no filters.
    pub(super) fn to(backend: &Arc<Backend>, rule: Arc<Rule>, route: RouteName) -> Self {
        let share = Share {
            target: Target::Backend(Arc::clone(backend)),
            filters: Box::default(),
            mirrors: Vec::new(),
            does: FilterKinds::default(),
        };
        Self {
            rule,
            route,
            index: 0,
            split: Split {
                shares: Box::new([share]),
                ends: Box::default(),
            },
            mirrors: Vec::new(),
            does: FilterKinds::default(),
        }
    }

    fn compile(
        rule: &Arc<Rule>,
        route: &RouteName,
        index: u32,
        resolve: &mut impl FnMut(&BackendName) -> Arc<Backend>,
    ) -> Self {
        Self {
            rule: Arc::clone(rule),
            route: route.clone(),
            index,
            split: Split::compile(&rule.backends, resolve),
            mirrors: mirrors(&rule.filters, resolve),
            does: FilterKinds::of(&rule.filters),
        }
    }
}

impl FilterKinds {
    /// What these do.
    pub fn of(filters: &[Filter]) -> Self {
        let mut kinds = Self::default();
        for filter in filters {
            match filter {
                Filter::Direct(_) | Filter::Redirect(_) => kinds.replies = true,
                Filter::Cors(_) => kinds.cors = true,
                Filter::Mirror(_) => kinds.mirrors = true,
                Filter::RequestHeaders(_) | Filter::Rewrite(_) => kinds.changes_request = true,
                Filter::ResponseHeaders(_) => kinds.changes_response = true,
            }
        }
        kinds
    }
}

impl CompiledRule {
    /// What scripts of other origins are told about requests of this share; the share's own word goes before.
    pub fn cors<'r>(&'r self, share: &'r Share) -> Option<&'r Cors> {
        let does = self.does.cors || share.does.cors;
        let filters = || share.filters.iter().chain(&self.rule.filters);
        does.then(|| {
            filters().find_map(|filter| match filter {
                Filter::Cors(cors) => Some(cors),
                _ => None,
            })
        })
        .flatten()
    }
}

impl Share {
    /// The first filter of this share that answers in the place of an endpoint.
    pub fn reply(&self) -> Option<Reply<'_>> {
        self.does.replies.then(|| reply(&self.filters)).flatten()
    }
}

impl Split {
    /// The share that gets this request. `random` (evenly spread over all of `u64`) is asked for only when
    /// there is a choice.
    pub fn choose(&self, random: impl FnOnce() -> u64) -> &Share {
        // `shares` is never empty, and `ends` is as long or empty.
        let Some(total) = self.ends.last() else {
            return &self.shares[0];
        };
        // Multiply and take the upper half: a point in 0..total without division (Lemire 2019).
        let point = ((u128::from(random()) * u128::from(*total)) >> 64) as u64;
        let index = self.ends.partition_point(|end| *end <= point);
        &self.shares[index.min(self.shares.len() - 1)]
    }

    /// All shares that get requests, and their weights (1 when there is no choice).
    pub fn shares(&self) -> impl Iterator<Item = (&Share, u64)> {
        self.shares.iter().enumerate().map(|(index, share)| {
            let end = self.ends.get(index).copied().unwrap_or(1);
            let start = index.checked_sub(1).and_then(|before| self.ends.get(before));
            (share, end - start.copied().unwrap_or(0))
        })
    }

    fn compile(backends: &[WeightedBackend], resolve: &mut impl FnMut(&BackendName) -> Arc<Backend>) -> Self {
        let mut shares = Vec::with_capacity(backends.len());
        let mut ends = Vec::new();
        let mut total = 0_u64;
        for backend in backends.iter().filter(|backend| backend.weight > 0) {
            total += u64::from(backend.weight);
            ends.push(total);
            shares.push(Share {
                target: match &backend.target {
                    BackendTarget::Backend(name) => Target::Backend(resolve(name)),
                    BackendTarget::Invalid(reason) => Target::Invalid(Arc::clone(reason)),
                },
                filters: backend.filters.clone().into(),
                mirrors: mirrors(&backend.filters, resolve),
                does: FilterKinds::of(&backend.filters),
            });
        }
        if shares.is_empty() {
            shares.push(Share {
                target: Target::None,
                filters: Box::default(),
                mirrors: Vec::new(),
                does: FilterKinds::default(),
            });
        }
        if shares.len() == 1 {
            ends.clear();
        }
        Self {
            shares: shares.into(),
            ends: ends.into(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend(backend) => write!(formatter, "{}", backend.name),
            Self::Invalid(reason) => write!(formatter, "nowhere: {reason}"),
            Self::None => formatter.write_str("nowhere: the rule has no backend"),
        }
    }
}

fn reply(filters: &[Filter]) -> Option<Reply<'_>> {
    filters.iter().find_map(|filter| match filter {
        Filter::Direct(direct) => Some(Reply::Direct(direct)),
        Filter::Redirect(redirect) => Some(Reply::Redirect(redirect)),
        Filter::Cors(_)
        | Filter::Mirror(_)
        | Filter::RequestHeaders(_)
        | Filter::ResponseHeaders(_)
        | Filter::Rewrite(_) => None,
    })
}

fn mirrors(
    filters: &[Filter],
    resolve: &mut impl FnMut(&BackendName) -> Arc<Backend>,
) -> Vec<(Arc<Backend>, Fraction)> {
    filters
        .iter()
        .filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some((resolve(&mirror.backend), mirror.fraction)),
            Filter::Cors(_)
            | Filter::Direct(_)
            | Filter::Redirect(_)
            | Filter::RequestHeaders(_)
            | Filter::ResponseHeaders(_)
            | Filter::Rewrite(_) => None,
        })
        .collect()
}
