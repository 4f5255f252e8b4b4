"""QUESTIONS: each file asks one of finished runs and answers in rows."""
