//! What a call used, and what that costs: classes, quantities, price lists and line items.

pub mod catalog;
mod catalog_provider;
pub mod class;
mod condition;
mod leaves;
pub mod line_items;
pub mod listing;
pub mod litellm;
pub mod model_prices;
pub mod own_price;
pub mod price_list;
pub mod priced;
pub mod provider_names;
pub mod quantities;
pub mod relations;
pub mod written_items;

pub use catalog::{Catalog, Found};
pub use catalog_provider::Model;
pub use class::Class;
pub use line_items::{LineItem, LineItems, PriceSource};
pub use model_prices::{Context, ModelPrices, context_of};
pub use own_price::OwnPrice;
pub use price_list::PriceList;
pub use priced::Priced;
pub use quantities::Quantities;
