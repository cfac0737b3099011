-- append(sid, key, body, expected_length or '')
--   -> {'ok', length, 1, {}} | {'moved', length, 0, {}} | {'gone'}
-- An event from outside; whatever follows from it is for the next drive to say.
local sid = ARGV[1]
if not is_open(sid) then return {'gone'} end
local length = redis.call('LLEN', journal_key(sid))
if ARGV[4] ~= '' and tonumber(ARGV[4]) ~= length then return {'moved', length, 0, {}} end
put(sid, ARGV[2], ARGV[3], '-', '0', '-')
due_at(sid, 'drive', now)
return {'ok', redis.call('LLEN', journal_key(sid)), 1, {}}
