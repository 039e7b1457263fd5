-- Three database roles, each with the rights that it needs and no more. For PostgreSQL 14 and later.
--
--   sendq_owner    owns the tables; only `sendq migrate` uses it
--   sendq_worker   workers, the command line, the console, the receiver of Nylas's webhooks
--   sendq_app      web applications: enqueue, read, cancel; reschedule and hold what waits. What workers record it
--                  cannot change.
--
-- Run it in the ledger's database as a superuser (managed servers: as their administrator), before the first migration
-- and again after each one. It can be repeated. Roles get no password here:
--
--   psql "$ADMIN_URL" --file=deploy/roles.sql
--   psql "$ADMIN_URL" --command='\password sendq_owner'     the same for the other two
--
-- The tables lie in the first schema of the search path. An application that has a role already, because the ledger is
-- in its own database, joins: GRANT sendq_app TO shop;

DO $$
DECLARE
    role text;
    item text;
    appended text[] := ARRAY['job', 'job_tag', 'after', 'payload', 'piece', 'content', 'chunk', 'batch', 'batch_change', 'key', 'wake', 'delivery',
                              -- the key of the digests of recipients, and who has unsubscribed
                              'secret', 'suppression'];
BEGIN
    FOREACH role IN ARRAY ARRAY['sendq_owner', 'sendq_worker', 'sendq_app'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
        END IF;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
    END LOOP;
    EXECUTE format('GRANT CREATE ON SCHEMA %I TO sendq_owner', current_schema());

    -- Tables that another role made become the owner's, and rights from elsewhere end. Sequences follow their table.
    FOR item IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename LIKE 'sendq\_%' LOOP
        EXECUTE format('ALTER TABLE %I OWNER TO sendq_owner', item);
        EXECUTE format('REVOKE ALL ON %I FROM PUBLIC, sendq_worker, sendq_app', item);
        IF item = 'sendq_version' THEN
            EXECUTE format('GRANT SELECT ON %I TO sendq_worker, sendq_app', item);
            CONTINUE;
        END IF;
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO sendq_worker', item);
        EXECUTE format('GRANT SELECT ON %I TO sendq_app', item);
        IF substr(item, 7) = ANY (appended) THEN
            EXECUTE format('GRANT INSERT ON %I TO sendq_app', item);
        END IF;
    END LOOP;
    FOR item IN SELECT sequencename FROM pg_sequences
                WHERE schemaname = current_schema() AND sequencename LIKE 'sendq\_%' LOOP
        EXECUTE format('GRANT USAGE ON SEQUENCE %I TO sendq_worker, sendq_app', item);
    END LOOP;

    IF to_regclass('sendq_job') IS NOT NULL THEN
        -- Cancelling a job or a batch. To lock a row takes the right to update one of its columns.
        GRANT UPDATE (state, rule, finished_at, cancel_at) ON sendq_job TO sendq_app;
        GRANT UPDATE (cancel_at, making, cancelled) ON sendq_batch TO sendq_app;
        -- Adding to an open batch, and closing it.
        GRANT UPDATE (open, total, lane_id) ON sendq_batch TO sendq_app;
        -- Rescheduling, holding and approving them, which the journal records: of its events, the application writes only
        -- these.
        GRANT UPDATE (due_at, next_at, resume_at, expires_at, priority, approve_by, approved_at) ON sendq_job TO sendq_app;
        GRANT UPDATE (due_at, expires_at, priority, held_at, spread_until) ON sendq_batch TO sendq_app;
        GRANT UPDATE (check_at) ON sendq_after TO sendq_app;
        GRANT INSERT, UPDATE (number) ON sendq_event TO sendq_app;
        ALTER TABLE sendq_event ENABLE ROW LEVEL SECURITY;
        DROP POLICY IF EXISTS sendq_workers ON sendq_event;
        CREATE POLICY sendq_workers ON sendq_event TO sendq_worker USING (true);
        DROP POLICY IF EXISTS sendq_readers ON sendq_event;
        CREATE POLICY sendq_readers ON sendq_event FOR SELECT TO sendq_app USING (true);
        DROP POLICY IF EXISTS sendq_changes ON sendq_event;
        CREATE POLICY sendq_changes ON sendq_event FOR INSERT TO sendq_app WITH CHECK (
            kind IN ('reschedule', 'priority', 'hold', 'release', 'approve', 'reject', 'undo', 'recipients_dropped')
            AND (job_id IS NOT NULL OR batch_id IS NOT NULL)
        );
        DROP POLICY IF EXISTS sendq_counts ON sendq_event;
        CREATE POLICY sendq_counts ON sendq_event FOR UPDATE TO sendq_app USING (
            kind IN ('reschedule', 'priority', 'hold', 'release', 'approve', 'reject') AND batch_id IS NOT NULL
            AND act IS NULL
        );
        GRANT DELETE ON sendq_found TO sendq_app;
        -- A file that is sent again is locked, so that retention does not delete it.
        GRANT UPDATE (size) ON sendq_content TO sendq_app;
    END IF;
END $$;
