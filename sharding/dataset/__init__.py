"""Keep a dataset: members of its tars, label versions, quarantine, card, publishing."""
