//! People: they come, subscribe, change their minds, do not pay, leave, come back. All by chance from the seed.

mod person;

use std::collections::BTreeMap;

use self::person::{Link, Person, Shop};
use crate::{
    account::{Account, NewPrice},
    calendar::{DAY, HOUR, Interval, MINUTE, Unit},
    model::Metadata,
    rng::Rng,
    world::{SimulatedUser, WorldOptions},
};

/// How long a person does nothing, on the average.
const PACE: i64 = 12 * DAY;

/// Everybody.
#[derive(Debug)]
pub(crate) struct Story {
    people: Vec<Person>,
    users: Vec<SimulatedUser>,
    shop: Shop,
    /// Who acts when; the number keeps those of one second in order.
    acts: BTreeMap<(i64, u64), usize>,
    count: u64,
    pace: i64,
    rng: Rng,
}

impl Story {
    /// Sets up the shop and lets everybody come.
    pub(crate) fn new(account: &mut Account, options: &WorldOptions, mut rng: Rng) -> Self {
        let shop = open_shop(account, options);
        let mut story = Self {
            people: Vec::new(),
            users: Vec::new(),
            shop,
            acts: BTreeMap::new(),
            count: 0,
            pace: PACE,
            rng: rng.clone(),
        };
        for number in 0..options.customers {
            let comes = options.start + rng.between(MINUTE, options.arrivals.max(MINUTE));
            let link = match rng.below(100) {
                0..40 => Link::Customer,
                40..60 => Link::Subscription,
                60..83 => Link::Reference,
                83..97 => Link::Email,
                _ => Link::Nobody,
            };
            // Two runs against one server do not share an address.
            let tag = format!("{number}-{:x}", options.seed);
            let email = format!("person{tag}@example.com");
            let user = (link != Link::Nobody).then(|| rng.uuid());
            if let Some(id) = &user {
                // Some hosts write down their user after the payment.
                let late = rng.percent(10);
                let made_at = if late { comes + rng.between(HOUR, 2 * DAY) } else { comes - 30 };
                story.users.push(SimulatedUser { id: id.clone(), email: email.clone(), made_at });
            }
            let pays_as = match link {
                // Only the checkout tells whose such a subscription is.
                Link::Reference if rng.percent(40) => format!("payer{tag}@example.org"),
                // Addresses are compared without regard to case.
                Link::Email if rng.percent(30) => format!("Person{tag}@Example.com"),
                _ => email,
            };
            story.people.push(Person::new(user, pays_as, link));
            story.plan(comes, story.people.len() - 1);
        }
        story.rng = rng;
        story
    }

    fn plan(&mut self, at: i64, person: usize) {
        self.count += 1;
        self.acts.insert((at, self.count), person);
    }

    /// When somebody acts next.
    pub(crate) fn next(&self) -> Option<i64> {
        self.acts.keys().next().map(|(at, _)| *at)
    }

    /// Whoever is next acts, if that is due until `until`.
    pub(crate) fn act(&mut self, account: &mut Account, until: i64) {
        let Some(entry) = self.acts.first_entry().filter(|entry| entry.key().0 <= until) else { return };
        let ((at, _), index) = entry.remove_entry();
        account.pass(at);
        account.begin_request();
        if let Some(person) = self.people.get_mut(index) {
            person.act(account, &self.shop, &mut self.rng);
        }
        let pause = self.rng.between(self.pace / 4, self.pace * 7 / 4).max(1);
        self.plan(at + pause, index);
    }

    pub(crate) fn users(&self) -> &[SimulatedUser] {
        &self.users
    }

    /// From `now` on everybody acts about every `seconds`.
    pub(crate) fn set_pace(&mut self, seconds: i64, now: i64) {
        self.pace = seconds.max(1);
        let waiting: Vec<usize> = std::mem::take(&mut self.acts).into_values().collect();
        for person in waiting {
            let at = now + self.rng.between(1, self.pace);
            self.plan(at, person);
        }
    }
}

/// For every paid plan a monthly price, which its own id or lookup key makes known, and a yearly one, known by its metadata; and one that no plan names.
fn open_shop(account: &mut Account, options: &WorldOptions) -> Shop {
    let mut shop = Shop::default();
    for (rank, plan) in (1_i64..).zip(options.plans.iter().skip(1)) {
        let named: Metadata = [("tier".to_owned(), plan.tier.clone())].into();
        let product = account.create_product(plan.products.first().cloned(), title(&plan.tier), Metadata::new());
        let mut price = |id: Option<String>, unit, unit_amount, lookup_key: Option<String>, metadata| {
            account.create_price(NewPrice {
                id,
                product: product.clone(),
                unit_amount,
                currency: "usd".to_owned(),
                interval: Some(Interval { unit, count: 1 }),
                lookup_key,
                nickname: Some(format!("{} a {}", title(&plan.tier), unit.as_str())),
                metadata,
            })
        };
        let known = plan.lookup_keys.first().cloned();
        let monthly_metadata = if known.is_some() { Metadata::new() } else { named.clone() };
        let monthly = price(plan.prices.first().cloned(), Unit::Month, 900 * rank, known, monthly_metadata);
        let yearly = price(None, Unit::Year, 9000 * rank, None, named);
        shop.monthly.extend(monthly);
        shop.yearly.extend(yearly);
    }
    let product = account.create_product(None, "Storage".to_owned(), Metadata::new());
    shop.addon = account
        .create_price(NewPrice {
            id: None,
            product,
            unit_amount: 200,
            currency: "usd".to_owned(),
            interval: Some(Interval { unit: Unit::Month, count: 1 }),
            lookup_key: None,
            nickname: Some("Storage a month".to_owned()),
            metadata: Metadata::new(),
        })
        .unwrap_or_default();
    shop
}

fn title(tier: &str) -> String {
    let mut letters = tier.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
