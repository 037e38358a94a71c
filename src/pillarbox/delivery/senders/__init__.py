"""The ways to the wire, behind one interface (`pillarbox.delivery.senders.base`)."""
