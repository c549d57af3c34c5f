"""``fleetmedic``: the operator's command. It speaks to APIs only, with the rights of whoever runs it."""
