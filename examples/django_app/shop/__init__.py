"""A shop on Django: each invoice and its mail are accepted in one ``atomic`` block.

A Celery task hears what became of the mail.

It reads SHOP_DATABASE (a postgresql:// or sqlite:/// address, the same that the workers have as DATABASE_URL),
SHOP_GRANT (the grant that mails invoices), SHOP_BROKER (a Redis; the workers have it as SENDQ_OUTCOME_BROKER_URL,
and SENDQ_OUTCOME_TASKS=shop.tasks.*@shop) and SHOP_SECRET_KEY (Django's own secret).
"""
