"""The status page: one process without rights, which shows the read model and hands actions to the consumer as files."""
