"""The page of the results: tables, figures and samples, made from what is finished."""
