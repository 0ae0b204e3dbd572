//! The rules of FOCUS 1.2 for the dataset Cost and Usage, as far as a ledger of AI usage can meet them:
//! its mandatory and recommended columns, and of the conditional ones those whose condition holds. Left
//! out are regions, zones, resources, commitment discounts and capacity reservations.

mod breakages;

pub use breakages::BREAKAGES;

use Level::{Conditional, Mandatory, Recommended};
use Type::{DateTime, Decimal, KeyValue, String as Text};
use ai_limiter_tests::calls::Session;
use postgres::SimpleQueryRow;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Level {
    Mandatory,
    Conditional,
    Recommended,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Type {
    Decimal,
    String,
    DateTime,
    KeyValue,
}

/// When a column may be null.
const NEVER: &str = "false";
const ALWAYS: &str = "true";
/// Prices, quantities and what they are of.
const UNLESS_PRICED: &str =
    r#""ChargeCategory" NOT IN ('Usage', 'Purchase') OR "ChargeClass" = 'Correction'"#;
const UNLESS_USED: &str = r#""ChargeCategory" <> 'Usage' OR "ChargeClass" = 'Correction'"#;
const WITHOUT_SUB_ACCOUNT: &str = r#""SubAccountId" IS NULL"#;

/// Allowed values; none is any.
const ANY: &[&str] = &[];
const CATEGORIES: &[&str] = &["Usage", "Purchase", "Tax", "Credit", "Adjustment"];
const FREQUENCIES: &[&str] = &["One-Time", "Recurring", "Usage-Based"];
const PRICINGS: &[&str] = &["Standard", "Dynamic", "Committed", "Other"];
const SERVICES: &[&str] = &[
    "AI and Machine Learning",
    "Analytics",
    "Business Applications",
    "Compute",
    "Databases",
    "Developer Tools",
    "Multicloud",
    "Identity",
    "Integration",
    "Internet of Things",
    "Management and Governance",
    "Media",
    "Migration",
    "Mobile",
    "Networking",
    "Security",
    "Storage",
    "Web",
    "Other",
];
/// Those of the category AI and Machine Learning.
const SUBCATEGORIES: &[&str] = &[
    "Bots",
    "Generative AI",
    "Machine Learning",
    "Natural Language Processing",
    "Other (AI and Machine Learning)",
];

#[rustfmt::skip]
const COLUMNS: &[(&str, Level, Type, &str, &[&str])] = &[
    ("BilledCost", Mandatory, Decimal, NEVER, ANY),
    ("BillingAccountId", Mandatory, Text, NEVER, ANY),
    ("BillingAccountName", Mandatory, Text, ALWAYS, ANY),
    ("BillingAccountType", Conditional, Text, NEVER, ANY),
    ("BillingCurrency", Mandatory, Text, NEVER, ANY),
    ("BillingPeriodEnd", Mandatory, DateTime, NEVER, ANY),
    ("BillingPeriodStart", Mandatory, DateTime, NEVER, ANY),
    ("ChargeCategory", Mandatory, Text, NEVER, CATEGORIES),
    ("ChargeClass", Mandatory, Text, ALWAYS, &["Correction"]),
    ("ChargeDescription", Mandatory, Text, ALWAYS, ANY),
    ("ChargeFrequency", Recommended, Text, NEVER, FREQUENCIES),
    ("ChargePeriodEnd", Mandatory, DateTime, NEVER, ANY),
    ("ChargePeriodStart", Mandatory, DateTime, NEVER, ANY),
    ("ConsumedQuantity", Conditional, Decimal, UNLESS_USED, ANY),
    ("ConsumedUnit", Conditional, Text, UNLESS_USED, ANY),
    ("ContractedCost", Mandatory, Decimal, NEVER, ANY),
    ("ContractedUnitPrice", Conditional, Decimal, UNLESS_PRICED, ANY),
    ("EffectiveCost", Mandatory, Decimal, NEVER, ANY),
    ("InvoiceId", Recommended, Text, ALWAYS, ANY),
    ("InvoiceIssuerName", Mandatory, Text, NEVER, ANY),
    ("ListCost", Mandatory, Decimal, NEVER, ANY),
    ("ListUnitPrice", Conditional, Decimal, UNLESS_PRICED, ANY),
    ("PricingCategory", Conditional, Text, UNLESS_PRICED, PRICINGS),
    ("PricingCurrency", Conditional, Text, NEVER, ANY),
    ("PricingCurrencyContractedUnitPrice", Conditional, Decimal, UNLESS_PRICED, ANY),
    ("PricingCurrencyEffectiveCost", Conditional, Decimal, NEVER, ANY),
    ("PricingCurrencyListUnitPrice", Conditional, Decimal, UNLESS_PRICED, ANY),
    ("PricingQuantity", Mandatory, Decimal, UNLESS_PRICED, ANY),
    ("PricingUnit", Mandatory, Text, UNLESS_PRICED, ANY),
    ("ProviderName", Mandatory, Text, NEVER, ANY),
    ("PublisherName", Mandatory, Text, NEVER, ANY),
    ("ServiceCategory", Mandatory, Text, NEVER, SERVICES),
    ("ServiceName", Mandatory, Text, NEVER, ANY),
    ("ServiceSubcategory", Recommended, Text, NEVER, SUBCATEGORIES),
    ("SkuId", Conditional, Text, UNLESS_PRICED, ANY),
    ("SkuMeter", Conditional, Text, r#""SkuId" IS NULL"#, ANY),
    ("SkuPriceDetails", Conditional, KeyValue, ALWAYS, ANY),
    ("SkuPriceId", Conditional, Text, UNLESS_PRICED, ANY),
    ("SubAccountId", Conditional, Text, ALWAYS, ANY),
    ("SubAccountName", Conditional, Text, WITHOUT_SUB_ACCOUNT, ANY),
    ("SubAccountType", Conditional, Text, WITHOUT_SUB_ACCOUNT, ANY),
    ("Tags", Conditional, KeyValue, ALWAYS, ANY),
];

/// What holds in each row. A condition that is null holds.
#[rustfmt::skip]
const IN_EACH_ROW: &[(&str, &str)] = &[
    (
        "ListUnitPrice x PricingQuantity = ListCost",
        r#""ChargeClass" IS NOT DISTINCT FROM 'Correction' OR "ListUnitPrice" * "PricingQuantity" = "ListCost""#,
    ),
    (
        "ContractedUnitPrice x PricingQuantity = ContractedCost",
        r#""ChargeClass" IS NOT DISTINCT FROM 'Correction' OR "ContractedUnitPrice" * "PricingQuantity" = "ContractedCost""#,
    ),
    (
        "without a price ListCost is BilledCost",
        r#""ListUnitPrice" IS NOT NULL OR "ChargeClass" IS NOT DISTINCT FROM 'Correction' OR "ListCost" = "BilledCost""#,
    ),
    (
        "without a price ContractedCost is BilledCost",
        r#""ContractedUnitPrice" IS NOT NULL OR "ChargeClass" IS NOT DISTINCT FROM 'Correction' OR "ContractedCost" = "BilledCost""#,
    ),
    (
        "prices are not negative",
        r#""ListUnitPrice" >= 0 AND "ContractedUnitPrice" >= 0 AND "PricingCurrencyListUnitPrice" >= 0 AND "PricingCurrencyContractedUnitPrice" >= 0"#,
    ),
    (
        "costs are numbers",
        r#"'NaN' NOT IN ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost", "PricingQuantity", "ConsumedQuantity")"#,
    ),
    (
        "tax has no price",
        r#""ChargeCategory" <> 'Tax' OR coalesce("SkuId", "SkuPriceId", "PricingUnit", "PricingCategory", "ListUnitPrice"::text, "ContractedUnitPrice"::text, "PricingQuantity"::text) IS NULL"#,
    ),
    (
        "only usage is consumed",
        r#""ChargeCategory" = 'Usage' OR ("ConsumedQuantity" IS NULL AND "ConsumedUnit" IS NULL)"#,
    ),
    (
        "a purchase is not Usage-Based",
        r#""ChargeCategory" <> 'Purchase' OR "ChargeFrequency" <> 'Usage-Based'"#,
    ),
    ("nothing is Committed without a commitment", r#""PricingCategory" <> 'Committed'"#),
    (
        "currencies are of ISO 4217",
        r#""BillingCurrency" = 'USD' AND "PricingCurrency" ~ '^[A-Z]{3}$'"#,
    ),
    (
        "one currency has one price",
        r#""PricingCurrency" <> "BillingCurrency" OR ("PricingCurrencyListUnitPrice" = "ListUnitPrice"
        AND "PricingCurrencyContractedUnitPrice" = "ContractedUnitPrice" AND "PricingCurrencyEffectiveCost" = "EffectiveCost")"#,
    ),
    (
        "a period has an inclusive start and an exclusive end",
        r#""BillingPeriodStart" <= "ChargePeriodStart" AND "ChargePeriodStart" < "ChargePeriodEnd" AND "ChargePeriodEnd" <= "BillingPeriodEnd""#,
    ),
    (
        "a charge is of a day in UTC",
        r#"date_trunc('day', "ChargePeriodStart", 'UTC') = "ChargePeriodStart" AND "ChargePeriodEnd" = "ChargePeriodStart" + interval '24 hours'"#,
    ),
    (
        "a billing period is a month in UTC",
        r#"date_trunc('month', "BillingPeriodStart", 'UTC') = "BillingPeriodStart"
        AND date_trunc('month', "BillingPeriodEnd" - interval '1 microsecond', 'UTC') = "BillingPeriodStart" AND date_trunc('month', "BillingPeriodEnd", 'UTC') = "BillingPeriodEnd""#,
    ),
    (
        "a correction within a period that is not over has no class",
        r#""ChargeClass" IS NULL OR "BillingPeriodEnd" <= now()"#,
    ),
    (
        "units are a number and a plural",
        r#""PricingUnit" ~ '^(1[0]* )?[A-Z][a-z]+s$|^[A-Z]{3}$' AND "ConsumedUnit" ~ '^[A-Z][a-z]+s$'"#,
    ),
    (
        "a sub account has an id, a name and a type",
        r#"("SubAccountId" IS NULL) = ("SubAccountName" IS NULL) AND ("SubAccountId" IS NULL) = ("SubAccountType" IS NULL)"#,
    ),
    (
        "a price belongs to its SKU",
        r#"("SkuPriceId" IS NOT NULL OR "SkuPriceDetails" IS NULL) AND ("SkuId" IS NOT NULL OR "SkuMeter" IS NULL)"#,
    ),
    (
        "keys of one's own begin with x_",
        r#"NOT EXISTS (SELECT FROM jsonb_object_keys("SkuPriceDetails") k WHERE k !~ '^x_[A-Z][A-Za-z0-9]*$')"#,
    ),
    ("the subcategory is of its category", r#""ServiceCategory" = 'AI and Machine Learning'"#),
];

/// What holds of the rows together: queries of what breaks it, over `rows`.
#[rustfmt::skip]
const TOGETHER: &[(&str, &str)] = &[
    (
        "a SKU price is of one SKU, at one list price",
        r#"SELECT FROM rows GROUP BY "SkuPriceId" HAVING count(DISTINCT ("SkuId", "ListUnitPrice", "PricingUnit")) > 1"#,
    ),
    (
        "a SKU has one meter",
        r#"SELECT FROM rows GROUP BY "SkuId" HAVING count(DISTINCT "SkuMeter") > 1"#,
    ),
    (
        "a billing account has one currency",
        r#"SELECT FROM rows GROUP BY "BillingAccountId" HAVING count(DISTINCT "BillingCurrency") > 1"#,
    ),
];

/// The names of the rules that are not about a single column.
pub fn rules() -> impl Iterator<Item = &'static str> {
    IN_EACH_ROW.iter().chain(TOGETHER).map(|(rule, _)| *rule)
}

/// The rules that a table or view breaks; of one that lacks a column or has it of another type, only that.
pub fn violations(session: &mut impl Session, relation: &str) -> Vec<String> {
    let mut broken = wrong_columns(session, relation);
    if !broken.is_empty() {
        return broken;
    }
    // One look at the rows for all that can be seen in one.
    let mut wrong: Vec<(String, String)> = Vec::new();
    for (name, _, kind, null, allowed) in COLUMNS {
        let mut add = |what, condition| wrong.push((format!("{name} is {what}"), condition));
        add("null", format!("\"{name}\" IS NULL AND ({null}) IS NOT TRUE"));
        match kind {
            Text => add("empty", format!("btrim(\"{name}\") = ''")),
            KeyValue => add(
                "nested",
                format!(
                    "jsonb_typeof(\"{name}\") <> 'object' OR EXISTS (SELECT FROM jsonb_each(\"{name}\") e
                        WHERE jsonb_typeof(e.value) IN ('object', 'array'))"
                ),
            ),
            Decimal | DateTime => {}
        }
        if !allowed.is_empty() {
            add("not allowed", format!("\"{name}\" NOT IN ('{}')", allowed.join("', '")));
        }
    }
    let in_rows =
        IN_EACH_ROW.iter().map(|(rule, holds)| ((*rule).to_owned(), format!("NOT ({holds})")));
    wrong.extend(in_rows);
    let questions: Vec<String> =
        wrong.iter().map(|(_, wrong)| format!("bool_or({wrong})")).collect();
    let answers =
        session.rows(&format!("SELECT {} FROM {relation}", questions.join(", "))).unwrap();
    let seen = wrong.iter().enumerate().filter(|(i, _)| answers[0].get(*i) == Some("t"));
    broken.extend(seen.map(|(_, (rule, _))| rule.clone()));

    for (rule, query) in TOGETHER {
        let query = query.replace("FROM rows", &format!("FROM {relation}"));
        if session.value(&format!("SELECT EXISTS ({query})")) == "t" {
            broken.push((*rule).to_owned());
        }
    }
    broken
}

fn wrong_columns(session: &mut impl Session, relation: &str) -> Vec<String> {
    let query = format!(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
         WHERE attrelid = '{relation}'::regclass AND attnum > 0 AND NOT attisdropped"
    );
    let text = |row: &SimpleQueryRow, i| row.get(i).unwrap_or_default().to_owned();
    let found: Vec<(String, String)> =
        session.rows(&query).unwrap().iter().map(|row| (text(row, 0), text(row, 1))).collect();

    let is_own = |name: &str| {
        name.strip_prefix("x_").is_some_and(|own| own.starts_with(|c: char| c.is_ascii_uppercase()))
    };
    let unknown =
        found.iter().filter(|(name, _)| !is_own(name) && COLUMNS.iter().all(|c| c.0 != name));
    let mut wrong: Vec<String> =
        unknown.map(|(name, _)| format!("{name} is no column of FOCUS")).collect();
    for (name, level, kind, ..) in COLUMNS {
        let expected = match kind {
            Decimal => "numeric",
            Text => "text",
            DateTime => "timestamp with time zone",
            KeyValue => "jsonb",
        };
        match found.iter().find(|(found, _)| found == name) {
            None => wrong.push(format!("{name} is missing, and it is {level:?}")),
            Some((_, actual)) if actual != expected => wrong.push(format!("{name} is {actual}")),
            Some(_) => {}
        }
    }
    wrong
}
