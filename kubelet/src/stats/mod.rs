//! What this node, its pods and their containers use: the data of `/stats/summary`, `/metrics/resource`, `/metrics/cadvisor` and `/metrics/probes`.
