"""What an experiment needs: data, models, runner, recorded results, published tables, figures."""
