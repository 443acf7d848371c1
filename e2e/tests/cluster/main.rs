//! Stories on a real cluster: what a team applies, what runs, what people see. The cluster, with images and charts, is
//! there already (`make cluster`, or any other by KUBECONFIG); each story has a namespace of its own.

mod accuracy;
mod audit;
mod broken;
mod chart;
mod delete;
mod expose;
mod first;
mod harness;
mod idle;
mod live;
mod moved;
mod namespaced;
mod operator;
mod plan;
mod planned;
mod rollback;
mod rules;
mod shared;
mod traffic;
mod upgrade;
mod world;
