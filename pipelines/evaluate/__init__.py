"""`xnemo evaluate`: measuring a trained model on held-out clips or listed pairs."""
