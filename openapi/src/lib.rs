//! The types that cross the network, and the OpenAPI document made of them.
