"""Messages to the owner: derived from the journal into the outbox, and sent to each channel by the consumer."""
