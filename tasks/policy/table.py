"""What happens after each failure. Read it beside the vendor's pages: same headings, same order.

    400 to 499   https://developer.nylas.com/docs/api/errors/400-response/
    500 to 599   https://developer.nylas.com/docs/api/errors/500-response/

The first row that fits wins, so a narrow row stands above the wide one with its status. Some errors arrive under
several statuses (Google's quotas as 403 or 429, Exchange's throttle as 429 or 503): their rows stand first, and carry
the page's heading. A failure that no page names falls through to the rows at the end of its class, which say so.

Nothing here sleeps, reads a clock or touches the ledger; the same failure always meets the same row. Rows of one's own
come before these, from a file (`tasks.policy.policy_file`).
"""

from __future__ import annotations

from sendq.facts.outcomes import Scope, Sent
from sendq.rules.rule_ids import GRANT_NOT_FOUND, WRONG_APPLICATION
from tasks.policy.lookalikes import (
    NO_RECIPIENTS,
    ONE_MESSAGE,
    RECIPIENT_FULL,
    RECIPIENTS_REFUSED,
    SENDER_NOT_BELIEVED,
    SIGN_IN_LATER,
    SMTP_REPLIES,
)
from tasks.policy.row import Backoff, Policy, Route, Row, Wait
from tasks.policy.waits import until_midnight_pacific

RETRY, REQUEUE, REAUTH, DEAD = Route.RETRY, Route.REQUEUE, Route.REAUTH, Route.DEAD_LETTER
JOB, GRANT, PROVIDER, APPLICATION = Scope.JOB, Scope.GRANT, Scope.PROVIDER, Scope.APPLICATION
NO, MAYBE, PARTLY = Sent.NO, Sent.MAYBE, Sent.PARTLY

_DOCS = "https://developer.nylas.com/docs"
PAGE_400 = f"{_DOCS}/api/errors/400-response/"
PAGE_500 = f"{_DOCS}/api/errors/500-response/"
TYPES = f"{_DOCS}/api/errors/"
SENDING = f"{_DOCS}/v3/email/sending-errors/"
SEND = f"{_DOCS}/v3/email/send-email/"
IDEMPOTENT = f"{_DOCS}/v3/email/idempotent-send/"
LIMITS = f"{_DOCS}/dev-guide/platform/rate-limits/"
GRANTS = f"{_DOCS}/v3/auth/"
AGENTS = f"{_DOCS}/v3/agent-accounts/send-limits/"
RULES = f"{_DOCS}/v3/agent-accounts/policies-rules-lists/"
TRACKING = f"{_DOCS}/v3/email/message-tracking/"

# An outage that is over within half an hour should cost nobody a dead letter: twelve attempts with these waits take 40
# minutes on average, and for sends the key's 45 minutes end the asking anyway.
OUTAGE = Backoff(base=5, cap=900, number=12)
# The provider's own "not now" (greylisting, a busy server): SMTP servers expect a sender back after minutes, for hours.
SMTP_LATER = Backoff(base=300, cap=3600, number=6)
# For errors of which the page says both "try again" and "check your settings": four attempts within half an hour.
FEW = Backoff(base=60, cap=900, number=4)

EXCHANGE_S = 20 * 60.0  # "Typically, this lasts for 20 minutes"
HOURS_S = 4 * 3600.0  # a sending quota runs over 24 hours: asking six times a day is polite and loses little
HOUR_S = 3600.0
PROBE_S = 60.0  # a fault of the application: somebody may mend it at any minute

# Who may have written the answer, if it was no proxy, firewall or page in between.
NOT_EDGE = ("nylas", "provider", "unknown")

# Where words are too little to hold an account. In a server error they do not rule out that the message went; a 400 or
# a 402 is mostly about one message.
CODE_NEEDED = (400, 402, "5xx")

SIGN_IN = "Ask the account's owner to sign in again; the waiting jobs are then sent automatically."

# fmt: off
# Laid out as a table by hand: conditions and route on the first lines, the words for people below.
ACROSS_STATUSES = (
    Row("no_recipients", "Bad request", (400, 422), DEAD, JOB, NO,
        "The message has no valid recipient and was rejected as a whole; it was not delivered.",
        "Correct the recipients in the payload, then enqueue it again.", PAGE_400,
        text=NO_RECIPIENTS, unless=RECIPIENTS_REFUSED),
    Row("no_recipients_402", "Bad request", (402,), DEAD, JOB, NO,
        "The API itself says that the message has no valid recipient; no mail server was asked.",
        "Correct the recipients in the payload, then enqueue it again.", PAGE_400,
        text=NO_RECIPIENTS, origin=("nylas",), unless=(*RECIPIENTS_REFUSED, *SMTP_REPLIES)),
    Row("recipients_invalid", "Bad request", (400, 422), DEAD, JOB, NO,
        "The provider checks all recipients before it sends, and rejected one of them; the message was not delivered.",
        "Correct the addresses in the payload, then enqueue it again.", PAGE_400,
        text=("errorinvalidrecipients", ("at least one reci", "isn't valid"), ("at least one reci", "is not valid"),
              ("at least one reci", "is invalid"), ("at least one reci", "not resolved")),
        unless=RECIPIENTS_REFUSED),
    Row("recipients_partly_refused", "Sending to at least one recipient failed", ("2xx", 400, 402, 422, 429),
        DEAD, JOB, PARTLY,
        "Some recipients have the message and at least one has not: a second send would reach the first ones twice.",
        "Check the refused recipients (non-ASCII addresses cannot be delivered to) and write only to them.", PAGE_400,
        text=("at least one reci", "subset of recipients", "subset of the recipients", "some recipients",
              "some of the reci")),
    Row("mailbox_concurrency_send", "MailboxConcurrency", (429, 503), REQUEUE, GRANT, MAYBE,
        "Too many calls for this mailbox at once. One send is several requests to Microsoft, and the refused one may "
        "have come after the one that sends: users found such mails in the Sent folder.",
        "Nothing to do: the mailbox is searched for the message once, before it is sent again.", LIMITS,
        operation=("send",), text=(("applicationthrottled", "mailboxconcurrency"), "commandconcurrency",
                                   "command concurrency"),
        wait=Wait(10, grows=True), width=1),
    Row("mailbox_concurrency", "MailboxConcurrency", (400, 403, 422, 429, 503), REQUEUE, GRANT, NO,
        "Too many calls for this mailbox at once; it clears in seconds. This is not the Exchange throttle.",
        "Nothing to do: the lane goes on with one call at a time.", LIMITS,
        text=("mailboxconcurrency", ("concurren", "mailbox"), "concurrent connections", "simultaneous connections"),
        wait=Wait(10, grows=True), width=1),
    Row("too_many_connections", "MailboxConcurrency", (400, 403, 422, 429), REQUEUE, GRANT, NO,
        "Too many connections to the mail server at once; it clears in seconds.",
        "Nothing to do: the lane goes on with one call at a time.", LIMITS,
        text=(("too many", "connections"), ("maximum number of", "connections"), "commandconcurrency",
              "errorexceededconnectioncount"),
        unless=("per minute", "per hour", "ip address"), wait=Wait(10, grows=True), width=1),
    Row("microsoft_throttled_send", "Account throttled", (429,), REQUEUE, GRANT, MAYBE,
        "Microsoft throttled the application for this mailbox. One send is several requests to Microsoft, and the "
        "refused one may have come after the one that sends: users found such mails in the Sent folder.",
        "Nothing to do: the mailbox is searched for the message once, before it is sent again.", LIMITS,
        operation=("send",), text=("applicationthrottled",), wait=Wait(300, grows=True), width=1),
    Row("exchange_busy_send", "Exchange account throttled", (500, 502, 503, 504), REQUEUE, GRANT, MAYBE,
        "The Exchange server is too busy to answer; the message may have gone out before it said so.",
        "Nothing to do: the mailbox is searched for the message once, before it is sent again.", PAGE_400,
        operation=("send",), text=("errorserverbusy",), wait=Wait(EXCHANGE_S), width=1),
    Row("exchange_throttled", "Exchange account throttled", (429, 500, 502, 503, 504), REQUEUE, GRANT, NO,
        "The Exchange server throttled the account, or its sync is paused; retrying earlier prolongs the throttling.",
        "Nothing to do, or ask the Exchange administrator to raise the throttling limits.", PAGE_400,
        text=(("exchange", "throttl"), "temporarily paused", "device should retry later", "asthrottle",
              "commandfrequency", "errorserverbusy"), wait=Wait(EXCHANGE_S)),
    Row("gmail_daily_limit", "Too many requests", (403, 429), REQUEUE, PROVIDER, NO,
        "The Google Cloud project has used up its requests for the day; the quota resets at midnight Pacific time.",
        "Request a higher daily quota for the Gmail API in the Google Cloud project.", PAGE_400,
        text=("dailylimitexceeded", "daily limit exceeded", ("quota metric", "per day"), "midnight pacific"),
        unless=("per day per user", "perdayperuser"), provider=("google", "unknown"),
        wait=Wait(until_midnight_pacific, floor=60), alert=True),
    Row("gmail_project_minute_limit", "Too many requests", (403, 429), REQUEUE, PROVIDER, NO,
        "The Google Cloud project has used up its requests for this minute, for all of its accounts together.",
        "Nothing to do, or request a higher quota per minute for the Gmail API in the Google Cloud project.", PAGE_400,
        text=(("exceeded for quota", "per minute"), "perminuteperproject", "per minute per project"),
        unless=("per user", "peruser"), provider=("google", "unknown"), wait=Wait(60, floor=60, grows=True)),
    Row("gmail_minute_limit", "Too many requests", (403, 429), REQUEUE, GRANT, NO,
        "The Gmail account has used up its quota for this minute.",
        "Nothing to do, or request a higher quota per minute and user for the Gmail API.", PAGE_400,
        text=("per minute", "perminute", "quota metric"), wait=Wait(60, floor=60, grows=True)),
    Row("sender_mailbox_full", "Quota exceeded", (400, 403, 422, 429, "5xx"), REQUEUE, GRANT, NO,
        "The sender's own mailbox is full, and its provider sends nothing until there is room.",
        "Ask the account's owner to delete mail or to get more storage.", PAGE_400,
        text=("errorquotaexceeded", "mailbox storage quota", "insufficient storage", ("storage quota", "reached"),
              ("storage quota", "exceeded")),
        unless=RECIPIENT_FULL, origin=NOT_EDGE, by_code=("5xx",), wait=Wait(HOURS_S, floor=60)),
    Row("quota_hour", "Quota exceeded", (400, 402, 403, 422, 429, "5xx"), REQUEUE, GRANT, NO,
        "The account has sent as much in an hour as its provider allows.",
        "Nothing to do: sending continues when the provider's quota resets. Fewer messages an hour avoid it.", PAGE_400,
        text=(("per hour", "exceed"), ("per hour", "limit"), ("per hour", "too many"), ("hourly", "limit"),
              ("each hour", "exceed"), ("each hour", "limit"), ("hourly", "quota"), ("hourly", "exceed"),
              ("past hour", "limit"), ("last hour", "limit"), ("this hour", "limit"), ("in an hour", "limit"),
              ("in one hour", "limit"), "errorexceededhourly"),
        unless=RECIPIENT_FULL, operation=("send",), origin=NOT_EDGE, by_code=CODE_NEEDED, wait=Wait(HOUR_S, floor=60)),
    Row("quota_code", "Quota exceeded", (400, 402, 403, 422, 429, "5xx"), REQUEUE, GRANT, NO,
        "The account has sent as much as Microsoft allows for now, according to the code in its answer.",
        "Nothing to do: sending continues when the provider's quota resets. Fewer messages a day avoid it.", PAGE_400,
        text=("submission quota", "submissionquota", "refusequota", "errorexceededmessagelimit",
              ("errorexceeded", "limit"), "5.1.90", "5.7.705"),
        operation=("send",), origin=NOT_EDGE, by_code=CODE_NEEDED, wait=Wait(HOURS_S, floor=60)),
    Row("quota_exceeded", "Quota exceeded", (400, 402, 403, 422, 429, "5xx"), REQUEUE, GRANT, NO,
        "The account has sent as much as its provider allows for now.",
        "Nothing to do: sending continues when the provider's quota resets. Fewer messages a day avoid it.", PAGE_400,
        text=("sending limit", "message rate limit", "sender has exceeded", ("sending rate", "exceed"),
              "message limit exceeded", "message limit reached", "message limit has been", "message limit was",
              "sending quota", "send limit", "send quota",
              "sender limit", "sender quota", "sender rate limit", "recipient rate limit",
              "(mail sending)", "email quota", "e-mail quota", "mail quota", "message quota", "messages per day",
              "emails per day", "outgoing quota", "outgoing limit", "relay quota", "relay limit", "relaying quota",
              "submission rate", "exceeded threshold", "exceeded its threshold", "exceeded the threshold",
              "unusual sending", "too many emails", "too many e-mails", "too many mails", "too many messages",
              "too much mail from", ("exceed", "number of messages"), ("exceed", "number of emails"),
              ("exceed", "number of mails"), ("reached", "number of messages"), ("reached", "number of emails"),
              ("policy rejection", "quota"), ("per day", "exceed"), ("per day", "limit"), ("daily", "sending"),
              ("daily", "limit"), ("daily", "quota"), ("24-hour", "limit"), ("24 hour", "limit"), "out_ratelimit",
              "outbound_ratelimit"),
        unless=(*RECIPIENT_FULL, *ONE_MESSAGE, "quota metric", "on this connection", "in this connection",
                "in this session", "per connection", "per session"),
        operation=("send",), origin=NOT_EDGE, by_code=CODE_NEEDED, wait=Wait(HOURS_S, floor=60)),
    Row("sender_blocked", "Sending Error", (400, 402, 403, 422, 429, "5xx"), REQUEUE, GRANT, NO,
        "The provider has blocked this account from sending: it must be verified, or is suspected of sending spam.",
        "Ask the account's owner to follow the provider's instructions (mostly a mail in the inbox), or the "
        "administrator to lift the restriction.", SENDING,
        text=("useraction verdict", "hipsend", "hipnotify", "showtierupgrade", "verify your account",
              "outbound sender", "errormessagesubmissionblocked", "messagesubmissionblocked", "5.1.8", "5.7.501",
              "5.7.502", "5.7.503", "5.7.750", "banned sender", "sender is restricted", "spam abuse detected",
              "blocked from sending", "restricted from sending", "suspended from sending", "prohibited from sending",
              "disabled from sending", "restricted user", "restricted entit", ("your account", "suspend"),
              ("your account", "blocked"), ("your account", "disabled"), ("your account", "locked"),
              ("your account", "restrict"), ("sender", "account", "blocked"), ("sender", "suspend"),
              "sending is suspended", "sending has been suspended", "sending suspended", ("outgoing", "suspend"),
              ("outgoing", "disabled"), ("outbound", "suspend")),
        unless=(*ONE_MESSAGE, "refusequota", "tried to reach", "trying to contact", "smtpclientauthentication",
                ("recipient", "suspended"), ("recipient", "disabled"), ("recipient", "blocked")),
        operation=("send",), origin=NOT_EDGE, by_code=CODE_NEEDED, wait=Wait(HOUR_S, floor=60, grows=True), alert=True),
    Row("resource_exhausted", "Resource exhausted", (403, 429), REQUEUE, GRANT, NO,
        "Too much data of this Gmail account was requested or changed per second.",
        "Nothing to do: the lane keeps a second between modifications from now on.", PAGE_400,
        text=("resource has been exhausted",), wait=Wait(10, grows=True), spacing=1.0),
    Row("quota_type", "Quota exceeded", (403, 429), REQUEUE, GRANT, NO,
        "The account has used up its quota at the provider.",
        "Nothing to do: sending continues when the provider's quota resets. Fewer messages a day avoid it.", PAGE_400,
        type=("quota_exceeded_error",), wait=Wait(HOURS_S, floor=60)),
    Row("gmail_user_rate", "Too many requests", (403, 429), REQUEUE, GRANT, NO,
        "The Gmail account has exceeded its usage limit.",
        "Nothing to do: the lane waits as long as Google says.", PAGE_400,
        text=("ratelimitexceeded", "user-rate limit", "user rate limit", "usage limit"),
        wait=Wait(60, floor=60, grows=True)),
    Row("quota_words", "Quota exceeded", (403, 429), REQUEUE, GRANT, NO,
        "The account has used up its quota at the provider.",
        "Nothing to do: sending continues when the provider's quota resets. Fewer messages a day avoid it.", PAGE_400,
        text=("quota exceeded", "quotaexceeded", "exceeded your quota", "exceeded the quota", "over its quota",
              "exceeded its quota", ("quota", "exceeded"), ("daily", "limit")), wait=Wait(HOURS_S, floor=60)),
    Row("resource_exhausted_code", "Resource exhausted", (403, 429), REQUEUE, GRANT, NO,
        "Google rejects the request because of a quota that it does not name.",
        "Nothing to do: the lane keeps a second between modifications from now on.", PAGE_400,
        text=("resource_exhausted",), wait=Wait(10, grows=True), spacing=1.0),
    Row("client_secret", "Provider credentials of the application", (400, 401, 403), REQUEUE, PROVIDER, NO,
        "The provider rejects the application, not the account: its client secret is wrong or has expired.",
        "Renew the client secret at the provider (Azure, Google Cloud) and in the Nylas connector.", GRANTS,
        text=("invalid_client", "unauthorized_client", "aadsts7000222", "aadsts7000215"),
        wait=Wait(PROBE_S, cap=1800, grows=True), alert=True),
    Row("sign_in_transient", "Authentication failed", (400, 401, 403, 422), REQUEUE, GRANT, NO,
        "The provider's sign-in service failed for now; the grant's credentials are not at fault.", "Nothing to do.",
        PAGE_400,
        text=("temporarily_unavailable", ("aadsts", "transient"), ("aadsts", "try again later"),
              ("aadsts", "please retry"), ("aadsts", "timed out"), ("aadsts", "temporar"), "aadsts90033",
              "aadsts90024", "aadsts50087", "aadsts90006", "aadsts90012", "aadsts90055", "aadsts50196", "aadsts80002",
              "aadsts80005"),
        wait=Wait(PROBE_S, cap=900, grows=True)),
    Row("authentication_failed", "Authentication failed", (400, 401, 403, 422), REAUTH, GRANT, NO,
        "The refresh token of this grant is invalid, revoked, or lacks scopes.", SIGN_IN, PAGE_400,
        type=("grant.refresh_token_invalid", "token.exchange_failed", "grant.invalid_authentication", "invalid_grant"),
        text=("invalid_grant", "refresh token", "refresh_token", "aadsts", "interaction_required", "consent_required")),
    Row("sign_in_refused_code", "Authentication failed", (400, 402, 422, 429, "5xx"), REAUTH, GRANT, NO,
        "The mail server refused the account's sign-in, so nothing was sent.", SIGN_IN, PAGE_400,
        smtp=(530, 534, 535, 538), by_code=("5xx",), unless=(*SENDER_NOT_BELIEVED, *SIGN_IN_LATER)),
    Row("sign_in_refused", "Authentication failed", (402, 422, 429), REAUTH, GRANT, NO,
        "The mail server refused the account's sign-in, so nothing was sent.", SIGN_IN, PAGE_400,
        text=("authenticationfailed", "authorizationfailed", "authentication unsuccessful", "authentication fail",
              "authentication rejected", "authentication required", "authentication is required",
              "authentication credentials invalid", "incorrect authentication data", "invalid authentication",
              "username and password not accepted", "badcredentials", "invalid credentials", "incorrect credentials",
              "credentials invalid", "invalidsecondfactor", "webloginrequired", "application-specific password",
              "app password", "app-specific password", "smtp_auth_disabled", "smtpclientauthentication",
              "client not authenticated", "client was not authenticated", "not authenticated to send", "login failed",
              "login denied", "login incorrect", "login invalid", "invalid login", "smtp authentication",
              "basic authentication is disabled", ("incorrect", "password"), ("invalid", "password"),
              ("wrong", "password"), ("bad", "password"), ("could not", "authenticate"), ("unable to", "authenticate"),
              ("failed to", "authenticate")),
        unless=(*SENDER_NOT_BELIEVED, *SIGN_IN_LATER), origin=("provider",), check_grant=True),
    Row("smtp_settings_missing", "Authentication failed", (400, 401, 403, 422), REAUTH, GRANT, NO,
        "This IMAP grant was made without SMTP settings, so it can read but not send.",
        "Ask the account's owner to sign in again with SMTP settings (options=smtp_required).", GRANTS,
        text=("smtphost", "smtpport", "smtp_host", "smtp_port", ("smtp settings", "missing"))),
    Row("api_key", "Unauthorized", (400, 401, 403), REQUEUE, APPLICATION, NO,
        "The API rejects the application's key (as it does a key of the other region); no account is at fault.",
        "Set a valid API key for this region; the next probe uses it.", TYPES,
        type=("token.unauthorized_access",), text=("bearer token", "api key", "api_key", "apikey"),
        origin=("nylas", "edge", "unknown"), wait=Wait(PROBE_S, cap=900, grows=True), alert=True),
)

BAD_REQUEST = (
    Row("sending_paused", "Sending is paused", (400, 403), REQUEUE, GRANT, NO,
        "Nylas has paused this account: 10 % or more of its messages bounced, or 0.5 % were reported as spam.",
        "Clean the list of recipients, then ask Nylas to let the account send again.", AGENTS,
        text=("sending is paused", "sending paused", "sendingpaused", "sending_paused", "paused sending",
              ("sending", "paused"), ("paused", "bounce"),
              ("paused", "complaint"), ("bounce rate", "exceed"), ("complaint rate", "exceed"),
              ("bounce rate", "too high"), ("complaint rate", "too high")),
        origin=NOT_EDGE, wait=Wait(HOUR_S, floor=60, grows=True), alert=True),
    Row("authentication_failed_400", "Authentication failed", (400,), REAUTH, GRANT, NO,
        "The provider refuses the grant's credentials, or scopes are missing.", SIGN_IN, PAGE_400,
        type=("auth_error", "authentication_error", "insufficient_scopes"),
        text=(("missing", "scope"), ("lack", "scope"), ("insufficient", "scope"), ("require", "scope"),
              ("token", "scope"), ("grant", "scope"), ("permission", "scope"), ("not", "authorized", "scope"),
              ("insufficient", "permission"), ("token", "permission"), "invalid credentials", "authentication failed",
              "authenticationfailed", "authentication unsuccessful", ("token", "revoked"), ("token", "expired"),
              ("access", "revoked"), ("credentials", "revoked"), ("credentials", "expired"),
              ("credentials", "no longer valid"), ("credentials", "out of date"), "reauthenticate", "re-authenticate",
              "reauthorize", "username and password not accepted", "incorrect authentication data"),
        unless=("out of scope", "send as", "sendas", "alias", "field", "attachment"), check_grant=True),
    Row("redirect_uri", "Redirect URI is not HTTPS or localhost", (400,), DEAD, JOB, NO,
        "The redirect URI of the application's sign-in page is not accepted.",
        "Configure a redirect URI with https:// (or http:// for localhost) in the Nylas application.", PAGE_400,
        type=("grant.callback_uri_not_allowed",), text=("redirect uri", "redirect_uri", "callback uri", "callback_uri"),
        alert=True),
    Row("password_entry", "This proposal does not allow direct password entry", (400,), REAUTH, GRANT, NO,
        "The account requires OAuth, but a password was used.",
        "Create an Azure app for the Microsoft connector, then ask the owner to sign in again.", PAGE_400,
        text=("direct password entry", "restart the authentication flow")),
    Row("different_address_400", "Different email address returned", (400,), REAUTH, GRANT, NO,
        "The provider returned another address than the one that began to sign in.",
        "Ask the owner to sign in with the main account, in a private window if it happens again.", TYPES,
        type=("grant.reauth_email_invalid",), text=("different email address", "different e-mail address")),
    Row("idempotency_key_invalid", "Invalid idempotency key", (400,), DEAD, JOB, NO,
        "The idempotency key is longer than 256 characters: a bug of this program.",
        "Report it; nothing was sent.", IDEMPOTENT,
        type=("invalid_idempotency_key",), text=("idempotency-key must be",), alert=True),
    Row("tracking_on_trial", "Bad request", (400,), DEAD, JOB, NO,
        "Trial applications may not track messages, so each message with tracking options is refused.",
        "Leave tracking_options out, or upgrade the Nylas application.", TRACKING,
        text=(("tracking option", "not allowed"),)),
    Row("bad_request", "Bad request", (400,), DEAD, JOB, NO,
        "The request is malformed or has an invalid parameter; it would be rejected again.",
        "Fix the payload as the API's message says, then enqueue it again.", PAGE_400,
        origin=NOT_EDGE),
)

UNAUTHORIZED = (
    Row("grant_unauthorized", "Unauthorized", (401,), REAUTH, GRANT, NO,
        "The provider rejects the grant's credentials; sendq checks the grant before its owner is asked to sign in.",
        SIGN_IN, PAGE_400, origin=("provider",), check_grant=True),
    Row("unauthorized", "Unauthorized", (401,), REAUTH, GRANT, NO,
        "Either the application's key or the grant's credentials are refused; the grant is checked first, and if that "
        "is refused too, it is the key.",
        "If the grant is invalid, ask its owner to sign in again; if not, check the API key and its region.", PAGE_400,
        origin=("nylas", "unknown"), check_grant=True),
)

PAYMENT_REQUIRED = (
    Row("recipients_all_refused", "Message rejected", ("2xx", 402), DEAD, JOB, NO,
        "The provider rejected all recipients; the message was not delivered.",
        "Check the addresses (non-ASCII ones cannot be delivered to), then enqueue it again.", SENDING,
        text=("all recipients", "all of the recipients", "no recipients")),
    Row("recipients_listed", "Sending to at least one recipient failed", ("2xx", 402), DEAD, JOB, PARTLY,
        "Refused recipients are listed, and nothing says that all were refused: the others may have the message.",
        "Check the refused recipients (non-ASCII addresses cannot be delivered to) and write only to them.", PAGE_400,
        refused=True),
    Row("message_rejected", "Message rejected", (402,), DEAD, JOB, NO,
        "The provider refused the message: its content, its size, or its recipients.",
        "Read the provider's message, fix yours, and enqueue it again.", SENDING),
)

FORBIDDEN = (
    Row("abuse_block", "Account blocked", (403,), REQUEUE, GRANT, NO,
        "Nylas or the provider has blocked this account for abuse; signing in again would not help.",
        "Ask Nylas support, or the provider, why the account is blocked.", AGENTS,
        text=("abuse", ("blocked", "spam", "account"), ("suspended", "spam")),
        origin=NOT_EDGE, wait=Wait(HOUR_S, floor=60, grows=True), alert=True),
    Row("gmail_api_disabled", "Gmail API has not been used in project", (403,), REQUEUE, PROVIDER, NO,
        "The Gmail API is disabled in the application's Google Cloud project; signing in again would not help.",
        "Enable the Gmail API in the Google Cloud project; it takes effect within minutes.", PAGE_400,
        text=("accessnotconfigured", "service_disabled", "has not been used in project", ("gmail api", "disabled")),
        wait=Wait(300, floor=60, cap=1800, grows=True), alert=True),
    Row("different_address", "Different email address returned", (403,), REAUTH, GRANT, NO,
        "Office 365 returned another address than the one that began to sign in.",
        "Ask the owner to sign in with the main account, in a private window if it happens again.", PAGE_400,
        type=("grant.reauth_email_invalid",), text=("different email address", "different e-mail address")),
    Row("scopes_missing", "Unauthorized", (403,), REAUTH, GRANT, NO,
        "The grant lacks scopes that this operation needs.",
        "Add the scope to the connector, then ask the account's owner to sign in again.", PAGE_400,
        type=("insufficient_scopes",),
        text=(("scope", "missing"), ("insufficient", "scope"), ("insufficient", "permission"), ("admin", "consent"))),
    Row("tenant_quarantined", "Unauthorized", (403,), REQUEUE, GRANT, NO,
        "The account's Microsoft tenant is quarantined; signing in again would not help.",
        "The tenant's administrator must lift the quarantine.", PAGE_400,
        text=("quarantin", ("tenant", "admin"), ("tenant", "blocked")), wait=Wait(3600, floor=60), alert=True),
    Row("send_as_denied", "Sending Error", (403,), RETRY, JOB, NO,
        "The account may not send with this From address.",
        "Use the address of the synced account as From, or get permission to send as the other one.", SENDING,
        text=("errorsendasdenied", ("right to send", "on behalf"), "send as denied"), backoff=FEW, costs=True),
    Row("outbound_rule", "Refused by an outbound rule", (403,), DEAD, JOB, NO,
        "A rule of the Nylas application forbids this message to one of its recipients; it was not delivered.",
        "Take the recipient out or change the rule, then enqueue it again.", RULES,
        text=("outbound rule", "outbound_rule", "outbound-rule", "outbound policy", "by a rule", "by rule",
              "rule blocked", "rule_blocked", ("rule", "outbound"), ("matched", "rule"), ("matches", "rule"),
              ("rule", "does not allow this recipient"), ("rule", "forbids"), "recipient is blocked",
              "recipient is not allowed"),
        unless=("conditional access", "sign-in", "sign in", "signin", "login", "on behalf", "send as"),
        operation=("send",), origin=("nylas",)),
    Row("forbidden", "Unauthorized", (403,), REAUTH, GRANT, NO,
        "The provider could not authenticate the account.", SIGN_IN, PAGE_400,
        origin=NOT_EDGE, check_grant=True),
)

NOT_FOUND = (
    Row(GRANT_NOT_FOUND, "Grant not found", (404,), DEAD, GRANT, NO,
        "The grant does not exist (any more) in this application. Its jobs end when the API knows another grant of the "
        "application; if it knows none, the API key is at fault (see wrong_application).",
        "Connect the account again and enqueue for the new grant.", TYPES,
        type=("grant.not_found",), text=("no grant found", "grant not found"), check_grant=True),
    Row("mailbox_not_enabled", "Mailbox not enabled", (404,), DEAD, JOB, NO,
        "The mailbox is inactive, deleted, or hosted on the customer's own servers.",
        "Ask the account's owner or administrator; nothing can be sent until the mailbox is back.", TYPES,
        text=("mailboxnotenabled", "soft-deleted", "hosted on-premise", ("mailbox", "inactive"))),
    Row("wrong_address", "Not the API", (404,), REQUEUE, APPLICATION, NO,
        "The answer is not from the API: the base URL is wrong, or a proxy in between answers.",
        "Check the application's API URI (https://api.us.nylas.com or https://api.eu.nylas.com).", TYPES,
        origin=("edge",), wait=Wait(PROBE_S, cap=900, grows=True), alert=True),
    Row("message_gone", "Not found", (404,), DEAD, JOB, NO,
        "The message to modify no longer exists.", "Nothing to do, unless its id is wrong.", TYPES,
        operation=("modify",)),
    Row("not_found", "Not found", (404,), DEAD, JOB, NO,
        "Something that the request names does not exist (the message replied to, an attachment, a template).",
        "Fix the ids in the payload, then enqueue it again.", TYPES),
)

# No single answer shows this: the API knows neither the grant of a call nor the others that it is asked about.
OTHER_APPLICATION = Row(
    WRONG_APPLICATION, "Grant not found", (404,), REQUEUE, APPLICATION, NO,
    "The API knows none of the application's grants, so its API key belongs to another Nylas application or region.",
    "Set the API key of the application (and region) in which the grants were made; the next probe uses it.", TYPES,
    wait=Wait(PROBE_S, cap=900, grows=True), alert=True,
)  # fmt: skip

CONFLICT = (
    Row("key_in_progress", "Concurrent idempotent request", (409,), RETRY, JOB, MAYBE,
        "The first request with this key is still running; the same key is asked again in a few seconds.",
        "Nothing to do.", IDEMPOTENT,
        type=("concurrent_idempotent_request",), text=(("idempotency-key", "in progress"),),
        wait=Wait(3, floor=3), backoff=Backoff(base=6, cap=10, number=None)),
    Row("key_reused", "Invalid idempotent request", (409,), DEAD, JOB, MAYBE,
        "This key was used with another payload: a bug of this program, or the database has lost the change that "
        "replaced the message. What that payload did is not known.",
        "Report it, and look into the account's sent mail before anything is sent again.", IDEMPOTENT,
        type=("invalid_idempotent_request",), text=(("idempotency-key", "different"),), alert=True),
    Row("modify_conflict", "Conflict", (409,), RETRY, JOB, NO,
        "Something else changed the message at the same moment.", "Nothing to do.", TYPES,
        operation=("modify",), backoff=Backoff(base=2, cap=60, number=5), costs=True, documented=False),
    Row("item_changed", "Conflict", (409, 412), RETRY, JOB, NO,
        "The provider did not carry out the request, because the item was changed at the same moment.",
        "Nothing to do.", TYPES,
        text=("errorirresolvableconflict", "change key", "changekey", "conditionnotmet", "errorstaleobject"),
        backoff=FEW, costs=True, documented=False),
    Row("precondition_failed", "Conflict", (412,), RETRY, JOB, NO,
        "A condition of the request did not hold, so it was not carried out.", "Nothing to do.", TYPES,
        origin=NOT_EDGE, backoff=FEW, costs=True, documented=False),
    Row("send_conflict", "Conflict", (409,), RETRY, JOB, MAYBE,
        "The provider aborted the request because of another one; the message may have gone out before that.",
        "Nothing to do: a repeat with the same key shows what happened.", TYPES,
        origin=NOT_EDGE, backoff=FEW, costs=True, documented=False),
)

OTHER_4XX = (
    Row("request_timeout", "Request timeout", (408,), RETRY, JOB, MAYBE,
        "The API's edge gave up waiting for the request.", "Nothing to do.", TYPES,
        backoff=OUTAGE, costs=True, documented=False),
    Row("cancelled_by_peer", "Request cancelled", (499,), RETRY, JOB, MAYBE,
        "The provider or the edge gave the request up while it was carried out; the message may have gone out.",
        "Nothing to do: a repeat with the same key shows what happened.", TYPES,
        backoff=OUTAGE, costs=True, documented=False),
    Row("proxy_sign_in", "Not the API", (407,), REQUEUE, APPLICATION, NO,
        "A proxy between the workers and the API wants them to sign in; the API was not reached.",
        "Check the workers' proxy settings.", TYPES,
        wait=Wait(PROBE_S, cap=900, grows=True), documented=False, alert=True),
    Row("too_large", "Request too large", (413,), DEAD, JOB, NO,
        "The request is over the API's limit (3 MB of JSON, 25 MB with attachments as parts).",
        "Send less, or link to large files.", SEND),
    Row("resource_blocked", "Resource blocked", (423,), REQUEUE, GRANT, NO,
        "The API has blocked this grant.", "Ask Nylas support why the grant is blocked.", TYPES,
        wait=Wait(3600, floor=60), alert=True),
)

UNPROCESSABLE = (
    Row("sending_error", "Sending Error", (422,), RETRY, JOB, NO,
        "Message delivery submission failed: often the From address is not the synced account's, or the Exchange "
        "server has quarantined the device.",
        "Check the From address, and that the Exchange server has not quarantined the syncing devices.", PAGE_400,
        text=("submission failed", "errorsendasdenied", "cannot submit message", ("right to send", "on behalf")),
        backoff=FEW, costs=True),
    Row("provider_refused", "Mail provider error", (422,), DEAD, JOB, NO,
        "The mail server refused the message for good (an SMTP code of the 500s).",
        "Read the provider's message, fix yours, and enqueue it again.", PAGE_400, smtp=(5,)),
    Row("provider_later", "Mail provider error", (422,), RETRY, JOB, NO,
        "The mail server refused the message for now (an SMTP code of the 400s).", "Nothing to do.", PAGE_400,
        smtp=(4,), backoff=SMTP_LATER, costs=True),
    Row("provider_error", "Mail provider error", (422,), RETRY, JOB, NO,
        "The provider failed while sending the message and gave no code.", "Read the provider's message.", PAGE_400,
        backoff=FEW, costs=True),
)

TOO_MANY_REQUESTS = (
    Row("exchange_words", "Exchange account throttled", (429,), REQUEUE, GRANT, NO,
        "The Exchange server throttled the account; retrying earlier prolongs the throttling.",
        "Nothing to do, or ask the Exchange administrator to raise the throttling limits.", PAGE_400,
        provider=("ews",), text=("throttl", "server busy", "requests sent to provider", "try again later"),
        wait=Wait(EXCHANGE_S)),
    Row("account_throttled", "Account throttled", (429,), REQUEUE, GRANT, NO,
        "The mail server asked to slow down for this account.", "Nothing to do.", PAGE_400,
        text=("throttl", "requests sent to provider", "error when fetching", "sending too fast", "sending rate",
              "server busy", "temporarily rejected", "at a rate that prevents", "unusual rate", "log in to gmail"),
        wait=Wait(300, grows=True)),
    Row("nylas_limit_application", "Nylas API rate limit", (429,), RETRY, APPLICATION, NO,
        "The application made more requests in a second than the Nylas API allows it.",
        "Nothing to do; if it lasts, look for other programs that use the same application.", PAGE_400,
        origin=("nylas",), text=("per application", "application rate limit", "application limit"),
        wait=Wait(1), backoff=Backoff(base=2, cap=30, number=None)),
    Row("nylas_limit", "Nylas API rate limit", (429,), RETRY, GRANT, NO,
        "The grant made more requests in a second than the Nylas API allows it.",
        "Nothing to do; if it lasts, look for other programs that use the same grant.", PAGE_400,
        origin=("nylas", "edge", "unknown"), wait=Wait(1), backoff=Backoff(base=2, cap=30, number=None)),
    Row("gmail_usage_limit", "Too many requests", (429,), REQUEUE, GRANT, NO,
        "The Gmail account has exceeded its usage limit.", "Nothing to do: the lane waits as long as Google says.",
        PAGE_400, provider=("google",), wait=Wait(60, floor=60, grows=True)),
    Row("exchange_refused", "Exchange account throttled", (429,), REQUEUE, GRANT, NO,
        "The Exchange server refuses calls for this account; retrying earlier prolongs the throttling.",
        "Nothing to do, or ask the Exchange administrator to raise the throttling limits.", PAGE_400,
        provider=("ews",), wait=Wait(EXCHANGE_S)),
    Row("provider_throttled", "Account throttled", (429,), REQUEUE, GRANT, NO,
        "The provider asked to slow down for this account.", "Nothing to do.", PAGE_400, wait=Wait(300, grows=True)),
)

CLIENT_ERRORS_NOBODY_DOCUMENTED = (
    Row("not_the_api", "Not the API", ("4xx",), REQUEUE, APPLICATION, NO,
        "A proxy or a firewall between the workers and the API refused the request; it says nothing about the grant.",
        "Check the network, its firewall and proxy, and the application's API URI.", TYPES,
        origin=("edge",), wait=Wait(PROBE_S, cap=900, grows=True), documented=False, alert=True),
    Row("undocumented_4xx", "Undocumented client error", ("4xx",), DEAD, JOB, NO,
        "This answer is not documented, and errors of this class do not go away by themselves.",
        "Read the answer; if it should be retried, add a row to the policy file and retry the job.", TYPES,
        documented=False, alert=True),
)

SERVER_ERRORS = (
    Row("provider_refused_5xx", "Provider Error", ("5xx",), DEAD, JOB, NO,
        "The mail server refused the message for good (an SMTP code of the 500s).",
        "Read the provider's message, fix yours, and enqueue it again.", PAGE_500, smtp=(5,), origin=("provider",)),
    Row("provider_later_5xx", "Provider Error", ("5xx",), RETRY, JOB, NO,
        "The mail server refused the message for now (an SMTP code of the 400s).", "Nothing to do.", PAGE_500,
        smtp=(4,), origin=("provider",), backoff=SMTP_LATER, costs=True),
    Row("server_error", "Server Error", (500,), RETRY, JOB, MAYBE,
        "Nylas failed on its side, perhaps after the provider had the message.",
        "Nothing to do; if it lasts, look at the Nylas status page.", PAGE_500, backoff=OUTAGE, costs=True),
    Row("bad_gateway", "Bad Gateway", (502,), RETRY, JOB, MAYBE,
        "Nylas' edge could not reach its own servers, or lost their answer.",
        "Nothing to do; if it lasts, look at the Nylas status page.", PAGE_500, backoff=OUTAGE, costs=True),
    Row("provider_unreachable", "Server Unavailable", (503,), RETRY, JOB, NO,
        "Nylas could not connect to the account's mail provider.", "Nothing to do.", PAGE_500,
        text=("error connecting to the user", "connecting to the mail provider"), backoff=OUTAGE, costs=True),
    Row("service_unavailable", "Service Unavailable", (503,), RETRY, JOB, MAYBE,
        "Nylas or the provider is overloaded.", "Nothing to do; if it lasts, look at the Nylas status page.", PAGE_500,
        backoff=OUTAGE, costs=True),
    Row("provider_timeout", "Provider Error", (504,), RETRY, JOB, MAYBE,
        "The provider did not answer Nylas in time; the message may have gone out.", "Nothing to do.", PAGE_500,
        backoff=OUTAGE, costs=True),
    Row("outbound_spam", "Outbound spam filter", tuple(range(550, 560)), DEAD, JOB, NO,
        "The provider's outbound spam filter refused the message.",
        "Change the content, then enqueue it again.", PAGE_500),
    Row("undocumented_5xx", "Undocumented server error", ("5xx",), RETRY, JOB, MAYBE,
        "This answer is not documented; like every server error, it may have come after the message went out.",
        "Nothing to do; if it lasts, look at the Nylas status page.", PAGE_500, backoff=OUTAGE, costs=True,
        documented=False, alert=True),
)

NO_ANSWER = (
    Row("no_connection", "No connection", ("none",), REQUEUE, APPLICATION, NO,
        "The API could not be reached: no address, no connection, or no trusted certificate. Nothing was sent.",
        "Check the network, the API URI and the machine's certificates.", TYPES,
        fault=("dns", "connect", "tls"), wait=Wait(2, cap=60, grows=True)),
    Row("own_trouble", "Request could not be made", ("none",), REQUEUE, APPLICATION, NO,
        "The worker cannot make requests for this application: its key cannot be read, its API URI is not a URL, or "
        "no setting names it.",
        "Check the workers' settings: the key's file, the API URI, the application's name in SENDQ_APPLICATIONS.",
        TYPES, fault=("key", "local"), wait=Wait(PROBE_S, cap=900, grows=True), alert=True),
    Row("request_broke_off", "Request cut short", ("none",), RETRY, JOB, NO,
        "The connection, or the ledger that the request's files are read from, went away before the last byte of the "
        "request was sent: the API cannot have accepted it.",
        "Nothing to do; if it lasts, check the way to the API and to the database.", SEND,
        fault=("incomplete",), backoff=OUTAGE, costs=True, documented=False),
    Row("files_unreadable", "Files cannot be read", ("none",), RETRY, JOB, NO,
        "The files of the request could not be read from the ledger: they are encrypted with a key that this "
        "worker does not have, or they are not there. Nothing was sent.",
        "Give the worker the encryption key; if it has it, the files are lost: cancel the job and enqueue it again.",
        SEND, fault=("unreadable",), backoff=Backoff(base=60, cap=900, number=None), costs=True, documented=False,
        alert=True),
    Row("integrity_check_failed", "Altered in the ledger", ("none",), DEAD, JOB, NO,
        "The job, or something that its encryption binds it to (the grant, the files and their order, the form), is "
        "not as it was stored: something other than sendq changed the ledger, or it is damaged. Nothing was sent.",
        "Find out who can write to the ledger. Enqueue it again, or restore its rows from a backup and retry it.",
        TYPES, fault=("altered",), documented=False, alert=True),
    Row("suppressed", "Suppressed recipient", ("none",), DEAD, JOB, NO,
        "A recipient was put on the suppression list after the job was enqueued: mail to it bounced, or the person "
        "complained or unsubscribed. Nothing was sent.",
        "Do not send to this recipient. If it is there by mistake: sendq suppressions remove, then retry the job.",
        TYPES, fault=("suppressed",), documented=False),
    Row("poison", "Job that kills its process", ("none",), DEAD, JOB, MAYBE,
        "Two workers died while this job was running, and then the process in which it ran alone.",
        "Find out what is special about this job or its answer, fix that, then retry it.", IDEMPOTENT,
        fault=("died",), documented=False, alert=True),
    Row("no_answer", "No answer", ("none",), RETRY, JOB, MAYBE,
        "The request was on its way and no answer came (a timeout, or a broken connection).",
        "Nothing to do: a repeat with the same key shows what happened.", IDEMPOTENT, backoff=OUTAGE, costs=True),
)

ODD_ANSWERS = (
    Row("contradiction", "Contradictory success", ("2xx",), RETRY, JOB, MAYBE,
        "The status says success, and the body says or shows something else.",
        "If it lasts, check for a proxy between the workers and the API.", SEND,
        backoff=Backoff(base=5, cap=300, number=6), costs=True, documented=False,
        escalates=Wait(5, cap=60, grows=True)),
    Row("redirect", "Not the API", ("3xx",), REQUEUE, APPLICATION, NO,
        "The API does not redirect: the base URL is wrong, or a proxy in between answers.",
        "Check the application's API URI (https://api.us.nylas.com or https://api.eu.nylas.com).", TYPES,
        wait=Wait(PROBE_S, cap=900, grows=True), documented=False, alert=True),
    Row("undocumented", "Undocumented answer", (), RETRY, JOB, MAYBE,
        "The status is not a valid HTTP status, so the outcome of the request is unknown.",
        "Check for a proxy between the workers and the API.", TYPES,
        backoff=Backoff(base=5, cap=300, number=6), costs=True, documented=False, alert=True),
)
# fmt: on

ROWS = (
    *ACROSS_STATUSES,
    *BAD_REQUEST,
    *UNAUTHORIZED,
    *PAYMENT_REQUIRED,
    *FORBIDDEN,
    *NOT_FOUND,
    *CONFLICT,
    *OTHER_4XX,
    *UNPROCESSABLE,
    *TOO_MANY_REQUESTS,
    *CLIENT_ERRORS_NOBODY_DOCUMENTED,
    *SERVER_ERRORS,
    *NO_ANSWER,
    *ODD_ANSWERS,
)

POLICY = Policy(ROWS)
