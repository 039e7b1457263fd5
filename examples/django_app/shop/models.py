"""What the shop keeps."""

from django.db import models


class Invoice(models.Model):
    """An invoice, the job that mails it, and the last outcome received for it."""

    number = models.IntegerField(primary_key=True)
    email = models.CharField(max_length=254)
    amount = models.IntegerField()
    job_id = models.UUIDField()
    outcome = models.CharField(max_length=40, null=True)
    sequence = models.BigIntegerField(default=0)

    class Meta:
        """The database itself refuses an amount that is not above zero."""

        constraints = (models.CheckConstraint(condition=models.Q(amount__gt=0), name="amount_above_zero"),)
