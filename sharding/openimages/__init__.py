"""Read annotation dumps of Open Images V3 to V7 into label tables."""
