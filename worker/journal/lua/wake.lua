-- wake(sid, step, grace_ms) -> queue | false (it does not wait, or was woken before)
-- A step that waits is ready now; whoever takes it looks whether its wait is over.
local sid, step = ARGV[1], ARGV[2]
local row = row_key(sid, step)
local h = redis.call('HMGET', row, 'state', 'not_before', 'waits', 'queue')
if h[1] ~= 'ready' or not h[3] or tonumber(h[2]) <= now then return false end
redis.call('HSET', row, 'not_before', int(now), 'tells', '0')
due_at(sid, step, now + tonumber(ARGV[3]))
return h[4]
