"""What a recipe will take, before it is run: time, bytes and money, stage by stage."""
